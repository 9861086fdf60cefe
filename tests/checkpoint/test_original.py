import pytest
import torch
from detectron2.modeling import build_model

from d2detr import model_zoo
from d2detr.checkpoint import from_original, to_original
from tests.checkpoint.helpers import assert_same_predictions, load, predict, small_detr
from tests.reference.weights import reference_state_dict


@pytest.fixture(scope="module")
def original():
    return reference_state_dict()


def test_every_tensor_of_the_release_has_its_place(original):
    cfg = model_zoo.get_config("detr_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 91
    model = build_model(cfg)
    assert from_original(original).keys() == model.state_dict().keys()
    load(model, original)
    assert torch.equal(
        model.backbone.res3[0].shortcut.norm.running_var,
        original["backbone.0.body.layer2.0.downsample.1.running_var"],
    )


def test_round_trip_of_the_release(original):
    again = to_original(from_original(original))
    assert list(again) == list(original)
    assert all(again[key] is original[key] for key in original)


def test_round_trip_of_the_panoptic_release(original):
    panoptic = {f"detr.{key}": value for key, value in original.items()}
    panoptic["bbox_attention.q_linear.weight"] = torch.randn(3, 3)
    panoptic["mask_head.lay1.weight"] = torch.randn(3, 3)
    again = to_original(from_original(panoptic))
    assert list(again) == list(panoptic)
    assert all(again[key] is panoptic[key] for key in panoptic)


def test_panoptic_checkpoint_gives_its_detections():
    trained = small_detr(seed=1)
    panoptic = {f"detr.{k}": v for k, v in to_original(trained.state_dict()).items()}
    panoptic["mask_head.lay1.weight"] = torch.zeros(1)
    model = small_detr()
    report = load(model, panoptic)
    assert_same_predictions(predict(model), predict(trained))
    assert "not used: mask_head.first.conv" in str(report)
