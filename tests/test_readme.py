"""What the README says is true."""

import re
from pathlib import Path

import pytest
import torch

from d2detr.datasets import ShapesSplit
from d2detr.datasets.shapes_dataset import ensure_shapes_files

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_pipeline_of_the_users_own(tmp_path, monkeypatch):
    """The script runs as printed, but for a smaller model and two iterations."""
    monkeypatch.chdir(tmp_path)
    ensure_shapes_files("my", ShapesSplit(num_images=16, size=64))
    scripts = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (script,) = (x for x in scripts if "MyTrainer" in x)
    script = script.replace('"detr_r50.yaml"', '"quickstart.yaml"')
    settings = "cfg.SOLVER.MAX_ITER, cfg.SOLVER.STEPS, cfg.MODEL.DEVICE = 2, (), 'cpu'\n"
    script = script.replace("MyTrainer(cfg)", f"{settings}MyTrainer(cfg)")
    exec(compile(script, "README.md", "exec"), {"__name__": "script"})
    weights = torch.load(tmp_path / "output" / "quickstart" / "model_final.pth")["model"]
    assert len(weights["heads.class_embed.weight"]) == 5 + 1


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^#)]+)\)", README))))
def test_links_lead_somewhere(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("tool", sorted(set(re.findall(r"tools/\w+\.(?:py|sh)", README))))
def test_tools_exist(tool):
    assert (ROOT / tool).is_file()
