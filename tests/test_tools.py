"""Every tool has the same shape, and answers --help."""

import importlib.util
import inspect
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"


def load(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parse(name, *arguments):
    return load(name).parse_args(arguments)


@pytest.mark.parametrize("name", sorted(path.stem for path in TOOLS.glob("*.py")))
def test_python_tools_answer_help(capsys, name):
    with pytest.raises(SystemExit) as stop:
        parse(name, "--help")
    assert stop.value.code == 0
    assert "usage" in capsys.readouterr().out
    assert list(inspect.signature(load(name).main).parameters) == ["args"]


@pytest.mark.parametrize(
    "path",
    sorted(path for path in TOOLS.glob("*.sh") if path.stem != "show_help"),
    ids=lambda path: path.stem,
)
def test_scripts_answer_help(path):
    result = subprocess.run(["bash", path, "--help"], capture_output=True, text=True, timeout=20)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) <= 10
    assert path.read_text().splitlines()[1] == f"# {result.stdout.splitlines()[0]}"


def test_predict_takes_overrides_with_and_without_the_word():
    usual = ("--config-file", "run", "--input", "a.jpg", "--output", "out")
    for extra in (("--opts", "MODEL.DEVICE", "cpu"), ("MODEL.DEVICE", "cpu")):
        args = parse("predict", *usual, *extra)
        assert args.opts == ["MODEL.DEVICE", "cpu"]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("predict", ("--config-file", "run", "--webcam", "--batch-size", "0"), "'0' is not a pos"),
        (
            "predict",
            ("--config-file", "run", "--webcam", "--confidence-threshold", "50"),
            "'50' is not in [0, 1]",
        ),
        (
            "visualize_results",
            ("--dataset", "a", "--results", "b", "--output", "c", "--score-threshold", "-0.1"),
            "'-0.1' is not in [0, 1]",
        ),
        ("check_dataset", ("a", "--queries", "many"), "'many' is not a positive number"),
    ],
)
def test_impossible_numbers_are_refused(capsys, name, arguments, message):
    with pytest.raises(SystemExit):
        parse(name, *arguments)
    assert message in capsys.readouterr().err


def test_tools_set_openmp_before_torch_reads_it():
    """Each of them imports d2detr before torch, and numpy and PIL need no OpenMP."""
    for path in TOOLS.glob("*.py"):
        lines = [line for line in path.read_text().splitlines() if "import" in line]
        modules = [line.split()[1].split(".")[0] for line in lines if line[0] in "if"]
        ours = modules.index("d2detr")
        assert not {"torch", "torchvision", "detectron2"} & set(modules[:ours]), path
