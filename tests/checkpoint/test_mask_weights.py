"""Panoptic weights of the original, and box models below a new mask head."""

import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from detectron2.utils.logger import setup_logger

from d2detr.checkpoint import check_frozen_weights, from_original, load_frozen_weights
from d2detr.errors import UserError
from d2detr.model_zoo import get_config
from tests.checkpoint.helpers import load
from tests.reference.weights import reference_state_dict


@pytest.fixture(scope="module")
def original():
    """With the class head of the released panoptic models: 250 category ids and no-object."""
    weights = reference_state_dict(masks=True)
    weights["detr.class_embed.weight"] = torch.arange(251.0)[:, None].expand(251, 256).clone()
    weights["detr.class_embed.bias"] = torch.arange(251.0)
    return weights


def build(name, num_classes=None):
    cfg = get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    if num_classes:
        cfg.MODEL.DETR.NUM_CLASSES = num_classes
    return build_model(cfg)


def test_every_panoptic_tensor_has_its_place(original):
    model = build("detr_panoptic_r50.yaml", 250)
    assert from_original(original).keys() == model.state_dict().keys()
    load(model, original)
    assert torch.equal(model.mask_head.adapters[2].weight, original["mask_head.adapter3.weight"])
    assert torch.equal(model.mask_head.layers[3].norm.bias, original["mask_head.gn5.bias"])


@pytest.mark.parametrize(
    ("config", "millions"),
    [("detr_panoptic_r50_dc5.yaml", 42.90), ("detr_panoptic_r101.yaml", 61.84)],
)
def test_parameters_of_the_original(config, millions):
    count = sum(x.numel() for x in build(config, 250).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=5e-3)


@pytest.mark.parametrize(
    ("config", "categories"),
    [
        ("detr_panoptic_r50.yaml", COCO_CATEGORIES),
        ("detr_segm_r50.yaml", [x for x in COCO_CATEGORIES if x["isthing"]]),
    ],
)
def test_class_rows_are_picked_by_category_id(original, config, categories):
    model = build(config)
    load(model, original)
    expected = [*(float(x["id"]) for x in categories), 250.0]
    assert model.heads.class_embed.bias.tolist() == expected
    assert model.heads.class_embed.weight[:, 7].tolist() == expected


def test_detection_weights_leave_the_mask_head_new_and_say_so(original, caplog):
    setup_logger(name="d2detr").propagate = True
    model = build("detr_panoptic_r50.yaml", 250)
    before = {key: x.clone() for key, x in model.mask_head.state_dict().items()}
    boxes = {key: x for key, x in original.items() if key.startswith("detr.")}
    load(model, boxes)
    assert "no mask head for this model: it starts from scratch" in caplog.text
    assert all(torch.equal(x, before[key]) for key, x in model.mask_head.state_dict().items())
    assert torch.equal(model.input_proj.bias, original["detr.input_proj.bias"])


def test_frozen_weights_bring_the_box_model_alone(original, tmp_path):
    path = tmp_path / "panoptic.pth"
    torch.save({"model": original}, path)
    model = build("detr_panoptic_r50.yaml", 250)
    before = {key: x.clone() for key, x in model.mask_head.state_dict().items()}
    load_frozen_weights(model, str(path))
    assert torch.equal(model.input_proj.bias, original["detr.input_proj.bias"])
    assert all(torch.equal(x, before[key]) for key, x in model.mask_head.state_dict().items())


def test_frozen_weights_of_a_part_are_refused(original, tmp_path):
    model = build("detr_panoptic_r50.yaml", 250)
    path = tmp_path / "backbone.pth"
    torch.save({k: x for k, x in original.items() if ".transformer." not in k}, path)
    with pytest.raises(UserError, match="FROZEN_WEIGHTS .*backbone.pth lacks .* tensors, such as"):
        load_frozen_weights(model, str(path))


def test_frozen_weights_of_other_classes_are_refused(tiny_mask_cfg, tmp_path):
    boxes = build_model(tiny_mask_cfg)
    *boxes.class_names, missing = boxes.class_names
    boxes.heads.class_embed = torch.nn.Linear(32, len(boxes.class_names) + 1)
    path = tmp_path / "boxes.pth"
    torch.save({"model": boxes.state_dict()}, path)
    with pytest.raises(UserError, match=f"boxes.pth lacks the classes {missing}, .*never be"):
        load_frozen_weights(build_model(tiny_mask_cfg), str(path))


def test_nothing_to_freeze(tiny_mask_cfg):
    tiny_mask_cfg.MODEL.DETR.FREEZE_BOX_MODEL = True
    with pytest.raises(UserError, match="FREEZE_BOX_MODEL is True, but there are no weights"):
        check_frozen_weights(tiny_mask_cfg)


def test_frozen_weights_that_do_not_exist(tiny_mask_cfg):
    model = build_model(tiny_mask_cfg)
    with pytest.raises(UserError, match="MODEL.DETR.FROZEN_WEIGHTS nowhere.pth does not exist"):
        load_frozen_weights(model, "nowhere.pth")


def test_two_weights_never_overwrite_each_other(tiny_mask_cfg):
    tiny_mask_cfg.MODEL.DETR.FROZEN_WEIGHTS = "boxes.pth"
    check_frozen_weights(tiny_mask_cfg)
    tiny_mask_cfg.MODEL.WEIGHTS = "all.pth"
    with pytest.raises(UserError, match="all.pth and MODEL.DETR.FROZEN_WEIGHTS boxes.pth are both"):
        check_frozen_weights(tiny_mask_cfg)
