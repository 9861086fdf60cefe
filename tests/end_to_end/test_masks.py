"""Mask training from the command line, on the embedded data."""

import json

import pytest
import torch
from PIL import Image

from tests.end_to_end.test_train_net import ROOT, SMALL, last_iteration, run_tool

SMALL = [*SMALL, "MODEL.WEIGHTS", "", "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("masks")


def train(directory, *args):
    config_file = ROOT / "configs" / "quickstart_panoptic.yaml"
    return run_tool("train_net.py", directory, "--config-file", config_file, *args)


def test_boxes_then_masks_on_the_frozen_boxes(directory):
    """The two steps of the original: a box model, then masks for it; resumed, evaluated, drawn."""
    boxes = train(
        directory,
        *SMALL,
        *("MODEL.MASK_ON", "False", "MODEL.DETR.TEST.PANOPTIC_ON", "False"),
        *("SOLVER.MAX_ITER", "3", "OUTPUT_DIR", "boxes"),
    )
    assert boxes.returncode == 0, boxes.stderr
    assert "segm" not in boxes.stdout.split("copypaste", 1)[1]

    frozen = ["MODEL.DETR.FROZEN_WEIGHTS", "boxes/model_final.pth"]
    # So that an untrained model yields segments.
    options = [*SMALL, *frozen, "MODEL.DETR.TEST.PANOPTIC_THRESHOLD", "0.0"]
    masks = train(directory, *options, "SOLVER.MAX_ITER", "3", "OUTPUT_DIR", "masks")
    assert masks.returncode == 0, masks.stderr
    assert "The box model is frozen" in masks.stdout
    before = torch.load(directory / "boxes" / "model_final.pth", weights_only=True)["model"]
    after = torch.load(directory / "masks" / "model_final.pth", weights_only=True)["model"]
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert any(key.startswith("mask_head.") for key in after.keys() - before.keys())

    resumed = train(directory, "--resume", *options, "SOLVER.MAX_ITER", "5", "OUTPUT_DIR", "masks")
    assert resumed.returncode == 0, resumed.stderr
    assert "Starting training from iteration 3" in resumed.stdout
    assert last_iteration(directory / "masks") == 5
    metrics = json.loads((directory / "masks" / "metrics.json").read_text().splitlines()[-1])
    assert {"bbox/AP", "panoptic_seg/PQ", "panoptic_seg/PQ-meadow"} <= metrics.keys()

    picture = directory / "panoptic.png"
    drawn = run_tool(
        "visualize_results.py",
        directory,
        *("--dataset", "shapes_val_panoptic", "--results", "masks/inference/panoptic.json"),
        *("--output", picture, "--num-images", "2", "--columns", "1"),
    )
    assert drawn.returncode == 0, drawn.stderr
    assert min(Image.open(picture).size) > 400


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["MODEL.WEIGHTS", "a.pth", "MODEL.DETR.FROZEN_WEIGHTS", "b.pth"],
            "a.pth and MODEL.DETR.FROZEN_WEIGHTS b.pth are both set",
        ),
        (
            ["MODEL.WEIGHTS", "", "MODEL.MASK_ON", "False"],
            "PANOPTIC_ON needs masks, but MODEL.MASK_ON is False",
        ),
        (["OUTPUT_DIR", "/dev/null/run"], "The output folder /dev/null/run cannot be made"),
    ],
    ids=["weights", "box-only", "output"],
)
def test_bad_input_ends_with_one_message(directory, args, message):
    failed = train(directory, "OUTPUT_DIR", "bad", *args)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr + failed.stdout
