"""What DETR promises, kept by its successors."""

import pytest
import torch
from detectron2.modeling import build_model

from d2detr.config import load_config
from d2detr.engine import build_optimizer
from d2detr.engine.step import TrainingStep
from d2detr.errors import UserError
from d2detr.model_zoo import get_config_file
from tests.modeling.inputs import make_input

VARIANTS = {
    "conditional": {"DECODER": "conditional"},
    "dab": {"DECODER": "dab", "ACTIVATION": "prelu", "ENC_SCALES_POSITIONS": True},
    "patterns": {"DECODER": "dab", "NUM_PATTERNS": 2},
    "dn": {"DECODER": "dab"},
}
INPUTS = [make_input(64, 48, 3), make_input(48, 64, 1, seed=1)]


@pytest.fixture(params=VARIANTS)
def cfg(request, tiny_cfg):
    return adapt(tiny_cfg, request.param)


def adapt(cfg, name):
    cfg.MODEL.DETR.update({"CLASSIFICATION": "focal", "CLASS_COST": 2.0, **VARIANTS[name]})
    cfg.MODEL.DETR.DENOISING.ENABLED = name == "dn"
    return cfg


def build(cfg):
    torch.manual_seed(0)
    model = build_model(cfg)
    # At first boxes are their references, whatever the image.
    torch.nn.init.normal_(model.heads.bbox_embed.layers[-1].weight, std=0.1)
    return model


def has_denoising(cfg):
    return cfg.MODEL.DETR.DENOISING.ENABLED


def test_trains_and_detects(cfg):
    model = build(cfg)
    losses = model(INPUTS)
    kinds = ("", "_dn") if has_denoising(cfg) else ("",)
    assert set(losses) == {
        f"loss_{name}{kind}{layer}"
        for name in ("ce", "bbox", "giou")
        for kind in kinds
        for layer in ("", "_0", "_1")
    }
    sum(losses.values()).backward()
    # Distributed training needs a gradient of every parameter on every worker.
    assert all(x.grad is not None for x in model.parameters())
    instances = model.eval()(INPUTS[:1])[0]["instances"]
    assert len(instances) == model.transformer.decoder.num_queries
    assert torch.equal(instances.scores, instances.scores.sort(descending=True).values)


@pytest.mark.parametrize("num_objects", [(0, 0), (0, 3), (25,)], ids=str)
def test_trains_with_any_number_of_objects(cfg, num_objects):
    model = build(cfg)
    inputs = [make_input(48, 48, n, seed=n) for n in num_objects]
    for record in inputs:
        record["instances"].gt_classes %= 5
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert all(x.grad is not None for x in model.parameters())


def test_detections_do_not_depend_on_the_order_of_the_batch(cfg):
    model = build(cfg).eval()
    results, reverse = model(INPUTS), model(INPUTS[::-1])[::-1]
    for one, other in zip(results, reverse, strict=True):
        torch.testing.assert_close(one["instances"].scores, other["instances"].scores)


def test_mixed_precision(cfg):
    model = build(cfg)
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(INPUTS)
        boxes = model.eval()(INPUTS)[0]["instances"].pred_boxes.tensor
    assert {x.dtype for x in losses.values()} == {torch.float32}
    assert boxes.dtype == torch.float32


def test_recomputed_activations_and_accumulation_give_the_same(cfg):
    # Of one size and with as many objects, since padding changes a little: cells at the border, and
    # the queries that fill up a group of denoising.
    inputs = [make_input(64, 64, 3), make_input(64, 64, 3, seed=1)]
    gradients = []
    for parts, num_parts in (((), 1), (("encoder", "decoder"), 2)):
        cfg.MODEL.DETR.ACTIVATION_CHECKPOINTING = parts
        model = build(cfg)
        if model.denoising is not None:  # every part draws noise of its own
            model.denoising.draw = lambda labels, boxes, negative: (labels, boxes)
        step = TrainingStep(model, build_optimizer(cfg, model), num_parts=num_parts)
        losses = step.compute_gradients(inputs)
        gradients.append([losses, {n: x.grad for n, x in model.named_parameters()}])
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", VARIANTS)
def test_masks_on_a_frozen_box_model(tiny_mask_cfg, name):
    tiny_mask_cfg.MODEL.DETR.FREEZE_BOX_MODEL = True
    model = build(adapt(tiny_mask_cfg, name))
    losses = model([make_input(48, 48, 2, masks=True)])
    sum(losses.values()).backward()
    trained = {n.partition(".")[0] for n, x in model.named_parameters() if x.grad is not None}
    assert trained == {"mask_head"}
    model.segmenter.panoptic_threshold = 0.0
    result = model.eval()([make_input(48, 48)])[0]
    assert result["instances"].pred_masks.shape == (len(result["instances"]), 48, 48)
    assert result["panoptic_seg"][1]


@pytest.mark.parametrize(
    ("config", "parameters"),
    [
        ("conditional_detr_r50.yaml", 43_418_401),
        ("dab_detr_r50.yaml", 43_671_517),
        ("dn_detr_r50.yaml", 43_694_977),
    ],
)
def test_number_of_parameters_is_that_of_the_original(config, parameters):
    cfg = load_config(get_config_file(config))
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.DETR.NUM_CLASSES = 91
    assert sum(x.numel() for x in build_model(cfg).parameters()) == parameters


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DECODER": "conditional"}, "needs queries that are boxes.*'conditional' are not.*'dab'"),
        ({"DENOISING.GROUPS": 0}, "MODEL.DETR.DENOISING.GROUPS is 0, but must be at least 1"),
        ({"DENOISING.LABEL_NOISE": 1.5}, r"DENOISING.LABEL_NOISE is 1.5; it must be in \[0, 1\]"),
        ({"NUM_PATTERNS": -1}, "MODEL.DETR.NUM_PATTERNS is -1"),
    ],
)
def test_impossible_settings(tiny_cfg, settings, message):
    cfg = adapt(tiny_cfg, "dn")
    for key, value in settings.items():
        cfg.merge_from_list([f"MODEL.DETR.{key}", value])
    with pytest.raises(UserError, match=message):
        build_model(cfg)
