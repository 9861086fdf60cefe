import pytest

from d2detr.config import load_config
from d2detr.errors import UserError
from d2detr.measure import analyze, parse_size
from d2detr.model_zoo import get_config_file

SIZE = (800, 1200)


def analyze_original(name, num_classes, **test_settings):
    """Count with as many classes as the original's heads have."""
    cfg = load_config(get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.DETR.TEST.update(test_settings)
    return analyze(cfg, ["parameter", "flop"], size=SIZE)


def in_original(found):
    """The original predicts from all six decoder layers, also where only the last is asked for."""
    return found.multiply_adds[""] + 5 * found.multiply_adds["heads"]


def test_costs_of_the_box_model_are_those_of_the_original():
    found = analyze_original("detr_r50.yaml", 91)
    assert found.parameters[""] == 41_524_768
    assert found.trained_parameters[""] == 41_302_368
    assert round(found.multiply_adds["backbone"] / 1e9, 1) == 78.4
    assert round(in_original(found) / 1e9, 1) == 91.1
    assert sum(found.multiply_adds_by_operator.values()) == found.multiply_adds[""]


def test_costs_of_the_mask_model_are_those_of_the_original():
    # One mask is faster to count than 100, which are 100 times as much.
    found = analyze_original("detr_panoptic_r50.yaml", 250, DETECTIONS_PER_IMAGE=1)
    assert round(found.parameters[""] / 1e6, 2) == 42.90
    assert found.trained_parameters[""] == found.parameters["mask_head"] == 1_333_657
    # The first convolution of a mask sees 256 features beside 8 maps. The original computes all of
    # it for each of the 100 masks, and we the part of the features once for all.
    first_convolution = (25 * 38) * (264 * 264 * 3 * 3)
    later = found.multiply_adds["mask_head.layers"] + found.multiply_adds["mask_head.predictor"]
    original = in_original(found) + 99 * (first_convolution + later)
    assert round(original / 1e9) == 265


def test_every_image_takes_the_same_whatever_is_found(tiny_mask_cfg):
    one = analyze(tiny_mask_cfg, ["flop"], size=(64, 96)).multiply_adds
    tiny_mask_cfg.MODEL.DETR.TEST.SCORE_THRESHOLD = 1.0
    tiny_mask_cfg.freeze()
    two = analyze(tiny_mask_cfg, ["flop"], size=(64, 96), batch=2).multiply_adds
    # But for the first layer's self-attention among queries, which all images share.
    assert two[""] == pytest.approx(2 * one[""], rel=1e-3)
    assert two["mask_head"] == 2 * one["mask_head"] > 0


def test_description_has_what_was_asked_for(tiny_mask_cfg):
    text = analyze(tiny_mask_cfg, size=(64, 96)).describe(depth=1)
    lines = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| .")]
    expected = ["backbone", "input_proj", "transformer", "heads", "criterion", "mask_head"]
    assert lines == [f". {name}" for name in expected]
    for part in ("DETR(", "trained", "multiply-adds", "kept for backward", "Inference holds"):
        assert part in text
    parameters = analyze(tiny_mask_cfg, ["parameter"], size=(64, 96))
    assert "multiply-adds" not in parameters.describe()
    assert set(parameters.as_dict()) == {"device", "parameters", "trained_parameters"}


@pytest.mark.parametrize("text", ["800", "0x800", "800x", "-800x1200", "800 x 1200"])
def test_size_that_is_none(text):
    with pytest.raises(UserError, match="800x1200"):
        parse_size(text)


def test_size():
    assert parse_size("480x640") == (480, 640)


def test_empty_batch(tiny_cfg):
    with pytest.raises(UserError, match="empty"):
        analyze(tiny_cfg, size=(64, 96), batch=0)
