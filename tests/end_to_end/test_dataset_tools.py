"""From a folder to a model and its predictions, as a user types it."""

import json

import pytest

from tests.dataset_trees import two_splits, yolo_roboflow
from tests.end_to_end.test_train_net import ROOT, run_tool

TINY = [
    *("SOLVER.MAX_ITER", "2", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.DIM_FEEDFORWARD", "64"),
    *("TEST.EVAL_PERIOD", "0", "VIS_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end")
    yolo_roboflow(folder / "data", two_splits())
    return folder


def test_check_finetune_and_predict(directory, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(directory / "cache"))
    checked = run_tool("check_dataset.py", directory, "data", "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["findings"] == []

    config = ("--config-file", ROOT / "configs" / "quickstart.yaml", "--weights", "")
    command = ("--data", "data", *config, "--output", "run")
    tuned = run_tool("finetune.py", directory, *command, *TINY)
    assert tuned.returncode == 0, tuned.stderr
    assert "Per-category bbox AP" in tuned.stdout
    assert (directory / "run" / "predictions" / "worst.png").is_file()

    again = run_tool("finetune.py", directory, *command, *TINY)
    assert again.returncode == 1
    assert "error: run holds another run" in again.stderr
    assert "Traceback" not in again.stderr

    image = next((directory / "data" / "valid" / "images").iterdir())
    arguments = ("--config-file", "run", "--output", "explained", "--png", "--input")
    dataset = ("--dataset", "auto:data:val", "--num-images", "1")
    explained = run_tool("explain.py", directory, *arguments, image, *dataset)
    assert explained.returncode == 0, explained.stderr
    assert "Images of auto:data:val: 1. Queries that detect nothing:" in explained.stdout
    written = {path.name for path in (directory / "explained").iterdir()}
    assert written == {"explain.html", "encoder.png", "decoder.png", "queries.png"}

    broken = directory / "data" / "valid" / "images" / "broken.jpg"
    broken.write_text("no image")
    predicted = run_tool(
        "predict.py",
        directory,
        *("--config-file", "run", "--input", "data/valid/images", "--output", "seen"),
        *("--confidence-threshold", "0", "--batch-size", "2"),
    )
    assert predicted.returncode == 1
    assert "1 of 4 files were left out" in predicted.stderr
    assert "broken.jpg cannot be read" in predicted.stderr
    assert len(json.loads((directory / "seen" / "coco_instances_results.json").read_text())) == 30

    refused = run_tool("explain.py", directory, *arguments, broken)
    assert refused.returncode == 1
    assert "broken.jpg cannot be read" in refused.stderr and "Traceback" not in refused.stderr
