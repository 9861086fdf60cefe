import re

import pytest
import torch

from d2detr.checkpoint import to_original
from tests.checkpoint.helpers import assert_same_predictions, predict, small_detr


def wrapper_state_dict(model, prefix):
    """What the wrapper saves, whose backbone is Detectron2's within a Joiner."""
    weights = {}
    for key, value in to_original(model.state_dict()).items():
        if key.startswith("backbone.0.body."):
            key = key.removeprefix("backbone.0.body.")
            key = key if key.startswith("layer") else f"stem.{key}"
            key = re.sub(r"layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
            key = re.sub(r"bn(\d)", r"conv\1.norm", key)
            key = key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")
            key = f"backbone.0.backbone.{key}"
        weights[prefix + key] = value
    weights["criterion.empty_weight"] = torch.ones(8)
    return weights


@pytest.mark.parametrize("prefix", ["detr.", "detr.detr."])
def test_wrapper_checkpoint_gives_its_detections(prefix):
    trained, model = small_detr(seed=2), small_detr()
    model.load_state_dict(wrapper_state_dict(trained, prefix))
    assert_same_predictions(predict(model), predict(trained))
    assert model.load_report.format == "DETR's Detectron2 wrapper"
