"""DETR in transformers against this one: the same weights must give the same logits and boxes."""

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model

from d2detr.checkpoint import to_original
from d2detr.checkpoint.convert import convert_checkpoint
from d2detr.checkpoint.huggingface import from_huggingface, to_huggingface
from tests.checkpoint.helpers import (
    assert_same_predictions,
    assert_same_tensors,
    load,
    padded_batch,
    predict,
    randomize,
    small_cfg,
    small_detr,
)

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SIZES = {
    "d_model": 64,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_ffn_dim": 96,
    "decoder_ffn_dim": 96,
    "num_queries": 10,
    "num_labels": 7,
}
# The depth of our ResNet, whether it is DC5, and what transformers calls it.
BACKBONES = {
    "R50": (50, False, {"backbone": "resnet50"}),
    "DC5": (50, True, {"backbone": "resnet50", "dilation": True}),
    "R101": (101, False, {"backbone": "resnet101"}),
}


def build_theirs(settings, kind="DetrForObjectDetection", seed=1):
    if settings.get("use_timm_backbone", True):
        pytest.importorskip("timm", reason="timm is not installed")
    else:
        resnet = transformers.ResNetConfig(out_features=["stage4"])
        settings = {"use_timm_backbone": False, "backbone_config": resnet}
    config = transformers.DetrConfig(use_pretrained_backbone=False, **SIZES, **settings)
    model = getattr(transformers, kind)(config).eval()
    randomize(model, seed)
    return model


def build_ours(depth, dilated):
    cfg = small_cfg(depth=depth)
    cfg.MODEL.RESNETS.RES5_DILATION = 2 if dilated else 1
    return build_model(cfg).eval()


@torch.no_grad()
def predict_with_theirs(theirs, ours):
    images = padded_batch(ours)
    pixel_mask = torch.zeros(images.tensor.shape[0], *images.tensor.shape[-2:], dtype=torch.long)
    for mask, (height, width) in zip(pixel_mask, images.image_sizes, strict=True):
        mask[:height, :width] = 1
    outputs = theirs(pixel_values=images.tensor, pixel_mask=pixel_mask)
    return outputs.logits, outputs.pred_boxes


def test_folder_of_a_model_without_timm(tmp_path):
    theirs = build_theirs({"use_timm_backbone": False})
    theirs.save_pretrained(tmp_path)
    ours = build_ours(50, False)
    DetectionCheckpointer(ours).load(str(tmp_path))
    assert_same_predictions(predict(ours), predict_with_theirs(theirs, ours))


@pytest.mark.parametrize("name", BACKBONES)
def test_folder_of_transformers_gives_its_predictions_here_and_back_there(name, tmp_path):
    depth, dilated, settings = BACKBONES[name]
    theirs, ours = build_theirs(settings), build_ours(depth, dilated)
    theirs.save_pretrained(tmp_path / "theirs")
    DetectionCheckpointer(ours).load(str(tmp_path / "theirs"))
    expected = predict_with_theirs(theirs, ours)
    assert_same_predictions(predict(ours), expected)

    DetectionCheckpointer(ours, str(tmp_path)).save("ours")
    convert_checkpoint(str(tmp_path / "ours.pth"), str(tmp_path / "back"), "huggingface")
    again = transformers.DetrForObjectDetection.from_pretrained(tmp_path / "back").eval()
    assert_same_predictions(predict_with_theirs(again, ours), expected)


def test_detection_part_of_the_segmentation_model(tmp_path):
    theirs = build_theirs({"backbone": "resnet18"}, "DetrForSegmentation")
    theirs.save_pretrained(tmp_path)
    ours = small_detr()
    DetectionCheckpointer(ours).load(str(tmp_path))
    assert_same_predictions(predict(ours), predict_with_theirs(theirs.detr, ours))


@pytest.mark.parametrize("settings", [{"backbone": "resnet18"}, {"position": "learned"}])
def test_names_of_a_model_in_memory(settings):
    if "position" in settings:
        settings = {"backbone": "resnet18", "position_embedding_type": "learned"}
    theirs = build_theirs(settings)
    cfg = small_cfg()
    cfg.MODEL.DETR.POSITION_EMBEDDING = settings.get("position_embedding_type", "sine")
    ours = build_model(cfg).eval()
    load(ours, theirs.state_dict())
    assert_same_predictions(predict(ours), predict_with_theirs(theirs, ours))


def test_bin_file_and_bare_model(tmp_path):
    theirs = build_theirs({"backbone": "resnet18"})
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    ours, ours_without_heads = small_detr(), small_detr(seed=2)
    DetectionCheckpointer(ours).load(str(tmp_path))
    assert_same_predictions(predict(ours), predict_with_theirs(theirs, ours))
    load(ours_without_heads, theirs.model.state_dict())
    ours_without_heads.heads = ours.heads
    assert_same_predictions(predict(ours_without_heads), predict(ours))


def test_mask_head_has_the_original_names():
    theirs = build_theirs({"backbone": "resnet18"}, "DetrForSegmentation").state_dict()
    renamed = to_original(from_huggingface(theirs))
    for key, theirs_key in {
        "bbox_attention.k_linear.bias": "bbox_attention.k_proj.bias",
        "mask_head.lay1.weight": "mask_head.conv1.conv.weight",
        "mask_head.gn5.weight": "mask_head.fpn_stages.2.refine.norm.weight",
        "mask_head.adapter3.bias": "mask_head.fpn_stages.2.fpn_adapter.bias",
        "mask_head.out_lay.weight": "mask_head.output_conv.weight",
    }.items():
        # Version 4 has the original's names in memory, too.
        assert torch.equal(renamed[key], theirs.get(theirs_key, theirs.get(key)))


def test_round_trip():
    ours = small_detr(seed=3).state_dict()
    assert_same_tensors(from_huggingface(to_huggingface(ours)), ours)
