"""What README.md and docs/ say is true: their commands are ones, and those that need no data run.

A block of code is run as it is, with short trainings, unless its first line is "# needs: ...". The
commands of such a block are parsed, and their config keys looked up.
"""

import importlib.util
import logging
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from d2detr.cli.command import build_parser, start
from d2detr.config import load_config
from d2detr.datasets import ShapesSplit, register_shapes, register_shapes_split
from d2detr.datasets.shapes_dataset import ensure_shapes_files
from d2detr.model_zoo import names

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NEEDS = "# needs: "
# What prepares a shell, or belongs to others.
OTHERS = {"cd", "cp", "curl", "eval", "export", "source", "tensorboard"}
SHORT = {
    "DATALOADER.NUM_WORKERS": "0",
    "MODEL.DEVICE": "cpu",
    "SOLVER.IMS_PER_BATCH": "4",
    "SOLVER.STEPS": "()",
    "TEST.REPORT": "False",
}
SHORTER = {
    "MyTrainer(cfg)": "cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.MODEL.DEVICE = 2, (), 'cpu'\n"
    "MyTrainer(cfg)",
    'get_config_file("detr_r50.yaml")': 'get_config_file("quickstart.yaml")',
    '("localhost", 8080)': '("localhost", 0)',
    "server.serve_forever()": """
import http.client, threading
threading.Thread(target=server.handle_request).start()
client = http.client.HTTPConnection("localhost", server.server_port)
client.request("POST", "/", open("street.jpg", "rb").read())
assert set(json.load(client.getresponse())) == {"names", "scores", "boxes"}
server.server_close()
""",
}


def blocks(page):
    """Returns the language and the text of each block of code."""
    return re.findall(r"^```(bash|python)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(text):
    """Returns the words of each command."""
    lines = text.replace("\\\n", " ").replace("&&", "\n").splitlines()
    return [words for words in (shlex.split(line, comments=True) for line in lines) if words]


def parse(words):
    """Returns the arguments of one of our commands, or None for another's."""
    if words[0] == "d2detr":
        return build_parser().parse_args(words[1:])
    tools = [index for index, word in enumerate(words) if re.fullmatch(r"tools/\w+\.py", word)]
    return load_tool(words[tools[0]]).parse_args(words[tools[0] + 1 :]) if tools else None


def load_tool(path):
    spec = importlib.util.spec_from_file_location(f"tool_{Path(path).stem}", ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


COMMANDS = [
    pytest.param(words, id=f"{page.name}: {' '.join(words)[:60]}")
    for page in PAGES
    for language, text in blocks(page)
    if language == "bash"
    for words in commands(text)
]


@pytest.mark.parametrize("words", COMMANDS)
def test_commands_take_these_arguments(words):
    args = parse(words)
    if args is not None:
        config_file = getattr(args, "config_file", "") or ""
        is_own = Path(config_file).suffix == ".yaml" and Path(config_file).parts[0] != "output"
        load_config(config_file if is_own else "", getattr(args, "opts", []))
    elif words[:2] == ["pip", "install"]:
        for extra in re.findall(r"\[(\w+)\]", " ".join(words)):
            assert f'"{extra}": [' in (ROOT / "setup.py").read_text()
    elif words[0] == "bash":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in OTHERS or words[1] in ("run_detr.py", "lazyconfig_train_net.py"), words


INLINE = r"`(?:d2detr|python tools/\w+\.py) [^`]*`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_in_the_text_have_these_options(page, capsys):
    for command in re.findall(INLINE, page.read_text()):
        _, name, *rest = command.strip("`").split()
        if name == "COMMAND":
            continue
        described = help_of(name, capsys)
        for option in (word for word in rest if word.startswith("--")):
            assert re.search(rf"{option}\b", described), command


def help_of(name, capsys):
    with pytest.raises(SystemExit) as stop:
        if name.endswith(".py"):
            load_tool(name).parse_args(["--help"])
        else:
            build_parser().parse_args([name, "--help"])
    assert stop.value.code == 0, name
    return capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_scripts_and_links_exist(page):
    text = page.read_text()
    for path in re.findall(r"\]\(((?!http)[^#)]+)", text):
        assert (page.parent / path).exists(), path
    for path in re.findall(r"tools/\w+\.(?:py|sh)", text):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"\b((?:\w+_)?detr_\w+)\.(?:yaml|py)\b", text):
        assert name in names() or name in ("run_detr", "detr_r50_300ep"), name


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder in which the pages' commands find what they assume; the datasets are small."""
    home = tmp_path_factory.mktemp("home")
    loggers = [logging.getLogger(name) for name in ("d2detr", "detectron2", "fvcore")]
    before = [(list(logger.handlers), logger.propagate) for logger in loggers]
    replaced = [name for name in DatasetCatalog.list() if name.startswith("shapes_")]
    forget(replaced)
    for split, seed in (("train", 0), ("val", 1)):
        facts = ShapesSplit(num_images=30, size=96, seed=seed)
        register_shapes_split(f"shapes_{split}", home / "datasets" / "shapes" / split, facts)
    ensure_shapes_files(home / "my", ShapesSplit(num_images=16, size=64))
    for name in ("image", "street", "yard"):
        shutil.copy(home / "my" / "images" / "000001.jpg", home / f"{name}.jpg")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        execute(["d2detr", "train", "--config-file", "quickstart.yaml"], patch)
    (home / "output" / "finetune").symlink_to("quickstart")
    yield home
    forget([name for name in DatasetCatalog.list() if name.startswith("shapes_")])
    register_shapes()
    for logger, (handlers, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.propagate = handlers, propagate


def forget(datasets):
    for name in datasets:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_run(page, home, monkeypatch, forget_datasets):
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend("")
    monkeypatch.setattr(sys, "argv", ["script"])
    script = {"__name__": "script"}
    for language, text in blocks(page):
        if text.startswith(NEEDS):
            continue
        if language == "bash":
            for words in commands(text):
                execute(words, monkeypatch)
            continue
        for long, short in SHORTER.items():
            text = text.replace(long, short)
        exec(compile(text, page.name, "exec"), script)


def execute(words, monkeypatch):
    """Runs a command in this process, which has imported everything."""
    args = parse(words)
    if args is not None:
        shorten(args)
        try:
            start(args)
        except SystemExit as stop:
            assert not stop.code, (words, stop.code)
    elif words[0] == "cp":
        subprocess.run(words, check=True)
    elif words[0] == "cd":
        monkeypatch.chdir(words[1])
    elif words[0] == "python":
        monkeypatch.setattr(sys, "argv", words[1:])
        runpy.run_path(words[1], run_name="__main__")
    else:
        assert words[0] in OTHERS or words[:2] == ["pip", "install"], words


def shorten(args):
    if args.command in ("train", "evaluate", "finetune"):
        short = {**SHORT, "SOLVER.MAX_ITER": "4" if args.resume else "2"}
        args.opts = [*args.opts, *(word for pair in short.items() for word in pair)]
