import argparse

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger
from torch import nn

from d2detr import model_zoo
from d2detr.checkpoint import fetch_weights, from_original, is_original
from d2detr.errors import UserError
from tests.reference.weights import reference_state_dict


@pytest.fixture(scope="module")
def original():
    return reference_state_dict()


def build(num_classes, num_queries=100):
    cfg = model_zoo.get_config("detr_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = num_queries
    return build_model(cfg)


def test_every_original_tensor_has_its_place(original):
    model = build(91)
    assert is_original(original)
    assert from_original(original).keys() == model.state_dict().keys()
    assert model.load_state_dict(original, strict=True)
    assert torch.equal(model.heads.class_embed.weight, original["class_embed.weight"])
    assert torch.equal(
        model.backbone.res3[0].shortcut.norm.running_var,
        original["backbone.0.body.layer2.0.downsample.1.running_var"],
    )


def test_released_checkpoint_with_optimizer_and_namespace(original, tmp_path):
    path = tmp_path / "detr-r50.pth"
    extras = {"optimizer": {"state": {}}, "args": argparse.Namespace(lr=1e-4), "epoch": 499}
    torch.save({"model": original, **extras}, path)
    model = build(91)
    DetectionCheckpointer(model).load(str(path))
    assert torch.equal(model.transformer.decoder.query_embed.weight, original["query_embed.weight"])


def test_panoptic_prefix_is_dropped(original):
    model = build(91)
    model.load_state_dict({f"detr.{key}": value for key, value in original.items()})
    assert torch.equal(model.input_proj.weight, original["input_proj.weight"])


def test_coco_classes_are_picked_by_category_id(original):
    model = build(80)
    model.load_state_dict(original)
    rows = model.heads.class_embed.weight
    # contiguous 0, 11 and 79 are person (id 1), stop sign (13) and toothbrush (90)
    for row, category_id in ((0, 1), (11, 13), (79, 90), (80, 91)):
        assert torch.equal(rows[row], original["class_embed.weight"][category_id])


def test_other_classes_and_queries_keep_their_initial_value_with_a_warning(original, caplog):
    model = build(5, num_queries=7)
    setup_logger(name="d2detr").propagate = True
    before = model.heads.class_embed.weight.clone()
    model.load_state_dict(original, strict=False)
    assert torch.equal(model.heads.class_embed.weight, before)
    assert torch.equal(model.input_proj.weight, original["input_proj.weight"])
    for key in ("heads.class_embed.weight", "transformer.decoder.query_embed.weight"):
        assert f"{key} keeps its initial value" in caplog.text


def test_own_weights_load_inside_another_model(original):
    class Pipeline(nn.Module):
        def __init__(self):
            super().__init__()
            self.detector = build(91)

    pipeline = Pipeline()
    pipeline.load_state_dict({f"detector.{key}": value for key, value in original.items()})
    assert torch.equal(pipeline.detector.input_proj.bias, original["input_proj.bias"])
    again = Pipeline()
    again.load_state_dict(pipeline.state_dict())
    assert torch.equal(again.detector.input_proj.bias, original["input_proj.bias"])


def test_weights_of_another_model_are_refused():
    with pytest.raises(UserError, match="fit no parameter.*roi_heads.*needs"):
        build(91).load_state_dict({"roi_heads.box.weight": torch.zeros(1)}, strict=False)


def test_fetch_weights(tmp_path):
    fetch_weights("")
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match="does not exist"):
        fetch_weights(str(path))
    path.touch()
    fetch_weights(str(path))
