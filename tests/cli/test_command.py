import shlex
import subprocess
import sys
from importlib import import_module

import pytest
from detectron2.engine import default_argument_parser

from d2detr.checkpoint.convert import TARGETS
from d2detr.cli.command import COMMANDS, build_parser, start, tool_parser
from d2detr.cli.predict import build_predictor
from d2detr.errors import UserError
from d2detr.export.exporting import DTYPES
from d2detr.export.writing import FORMATS
from d2detr.measure import AMP, COST_TASKS, TASKS
from d2detr.visualization.curves import PANEL_KEYS
from d2detr.visualization.results import ORDERS


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_every_command_answers_help(capsys, words):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args([*words, "--help"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.startswith(" ".join(["usage: d2detr", *words]))


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["predict", "--webcam", "x"]])
def test_help_and_wrong_command_lines_wait_for_no_import(words):
    script = f"""
import sys
sys.argv = ["d2detr", *{words}]
from d2detr_command import main
try:
    main()
finally:
    assert not {{"torch", "detectron2", "numpy"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert "Error" not in done.stderr
    assert done.returncode == (0 if "--help" in words else 2)
    assert "usage: d2detr" in done.stdout + done.stderr


def test_the_command_imports_the_whole_package_for_what_it_runs(tmp_path):
    script = """
import sys
sys.argv = ["d2detr", "look", "--output", "a.png"]
from d2detr_command import main
try:
    main()
finally:
    import d2detr
    from detectron2.modeling import META_ARCH_REGISTRY
    assert META_ARCH_REGISTRY.get("DETR") is d2detr.modeling.DETR
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True
    )
    assert done.stderr == "error: Give --dataset, --config-file or both.\n"


@pytest.mark.parametrize(
    ("command", "name", "table"),
    [
        ("analyze", "TASKS", COST_TASKS),
        ("benchmark", "AMP", AMP),
        ("benchmark", "TASKS", TASKS),
        ("convert", "TARGETS", TARGETS),
        ("export", "FORMATS", FORMATS),
        ("export", "PRECISIONS", (*DTYPES, "int8")),
        ("plot", "PANELS", PANEL_KEYS),
        ("results", "ORDERS", ORDERS),
    ],
)
def test_choices_are_those_of_the_package(command, name, table):
    assert getattr(import_module(f"d2detr.cli.{command}"), name) == tuple(table)


def test_train_takes_what_detectron2_takes():
    ours, theirs = tool_parser("train"), default_argument_parser()
    names = {x: action.dest for x, action in theirs._option_string_actions.items()}
    known = {x: action.dest for x, action in ours._option_string_actions.items()}
    assert names.items() <= known.items()
    args = ours.parse_args(["--config-file", "a.yaml", "SOLVER.MAX_ITER", "3"])
    assert vars(args).keys() - {"command"} == vars(theirs.parse_args([])).keys()
    assert args.opts == ["SOLVER.MAX_ITER", "3"]


def test_options_set_config_keys_and_the_end_of_the_line_wins():
    line = "evaluate --config-file a.yaml --weights w.pth --output out MODEL.WEIGHTS other.pth"
    args = build_parser().parse_args(line.split())
    keys = ["MODEL.WEIGHTS", "w.pth", "OUTPUT_DIR", "out", "MODEL.WEIGHTS", "other.pth"]
    assert args.eval_only and args.opts == keys


def test_what_the_user_has_to_mend_ends_with_one_sentence(tmp_path):
    with pytest.raises(SystemExit) as stop:
        start(tool_parser("look").parse_args(["--output", str(tmp_path / "a.png")]))
    assert stop.value.code == "error: Give --dataset, --config-file or both."


def test_an_exported_model_is_predicted_with_as_it_is():
    line = "--input a.jpg --model a.onnx MODEL.DEVICE cpu"
    with pytest.raises(UserError, match="--model has its weights and its config in it"):
        build_predictor(tool_parser("predict").parse_args(line.split()))


def test_a_wrong_command_is_answered_with_those_there_are(capsys):
    with pytest.raises(SystemExit) as stop:
        build_parser().parse_args(["tarin"])
    assert stop.value.code == 2
    message = capsys.readouterr().err
    assert all(name in message for name in COMMANDS)


def test_bash_completes_commands_options_choices_and_files(capsys, tmp_path):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit):
        start(build_parser().parse_args(["completion", "bash"]))
    (tmp_path / "completion").write_text(capsys.readouterr().out)
    (tmp_path / "model.pth").touch()
    for words, completed in (
        ("d2detr tra", "train"),
        ("d2detr predict --conf", "--config-file --confidence-threshold"),
        ("d2detr convert --to hug", "huggingface"),
        ("d2detr train --weights mod", "model.pth"),
    ):
        line = f"source completion; COMP_WORDS=({words}); COMP_CWORD={len(shlex.split(words)) - 1}"
        script = f"{line}; _shtab_d2detr; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True)
        assert done.stdout.strip() == completed, words
