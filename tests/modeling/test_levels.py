"""Models that read several feature maps."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN, build_model
from detectron2.modeling.backbone.regnet import RegNet, ResBottleneckBlock, SimpleStem

from d2detr.errors import UserError
from d2detr.modeling import DETR, Memory, Swin
from d2detr.modeling.backbone import build_tiny_resnet_backbone
from d2detr.modeling.levels import SeveralLevels
from tests.modeling.inputs import make_input

VARIANTS = {
    "plain": {"DECODER": "deformable"},
    "refine": {"DECODER": "deformable", "REFINE_BOXES": True, "HEADS_PER_LAYER": True},
    "two_stage": {
        "DECODER": "deformable",
        "REFINE_BOXES": True,
        "HEADS_PER_LAYER": True,
        "TWO_STAGE": True,
        "PROPOSAL_LEARNING": "objectness",
    },
    "dino": {"DECODER": "dino", "TWO_STAGE": True, "PROPOSAL_LEARNING": "chosen"},
    "dino_learned": {"DECODER": "dino"},
    "dab": {"DECODER": "dab", "TWO_STAGE": True},
    "conditional": {"DECODER": "conditional"},
    "detr": {"DECODER": "detr"},
}


@pytest.fixture
def cfg(tiny_cfg):
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3"]
    detr = tiny_cfg.MODEL.DETR
    detr.IN_FEATURES, detr.NUM_LEVELS, detr.ENCODER = ["res2", "res3"], 3, "deformable"
    detr.NUM_OBJECT_QUERIES, detr.CLASSIFICATION, detr.PROPOSAL_SIZE = 20, "focal", 0.1
    return tiny_cfg


def batch():
    return [make_input(64, 96, 2), make_input(50, 33, 1), make_input(16, 20, 0)]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_learns_and_detects(cfg, name):
    cfg.MODEL.DETR.update(VARIANTS[name])
    if name == "dino":
        cfg.MODEL.DETR.DENOISING.ENABLED = cfg.MODEL.DETR.DENOISING.CONTRASTIVE = True
    model = build_model(cfg)
    sum(model(batch()).values()).backward()
    without = [name for name, x in model.named_parameters() if x.grad is None]
    assert without == []
    results = model.eval()(batch())
    assert [len(x["instances"]) for x in results] == [20] * 3


@pytest.mark.parametrize("name", ["plain", "two_stage", "dino"])
@torch.no_grad()
def test_padding_is_never_read(cfg, name):
    cfg.MODEL.DETR.update(VARIANTS[name])
    model = build_model(cfg).eval()
    for heads in (model.heads, model.transformer.proposals):
        for parameter in () if heads is None else heads.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    images = model.preprocess_image([make_input(64, 96), make_input(48, 32)])
    cells = model.encode(images)

    def spoil(module, args, result):
        for level in result:
            height, width = level.shape[-2:]
            level[1, :, -(-48 * height // 64) :] = 50
            level[1, :, :, -(-32 * width // 96) :] = 50
        return result

    handle = model.input_proj.register_forward_hook(spoil)
    spoilt = model.encode(images)
    handle.remove()
    torch.testing.assert_close(spoilt.decoded.hs, cells.decoded.hs)


@pytest.mark.parametrize("kind", ["fpn", "regnet", "swin"])
def test_backbones(cfg, kind):
    cfg.MODEL.DETR.update(VARIANTS["dino"])
    if kind == "fpn":
        backbone = FPN(
            build_tiny_resnet_backbone(cfg, ShapeSpec(channels=3)),
            in_features=["res2", "res3"],
            out_channels=32,
        )
        names = ["p3", "p4"]
    elif kind == "regnet":
        backbone = RegNet(
            stem_class=SimpleStem,
            stem_width=16,
            block_class=ResBottleneckBlock,
            depth=4,
            w_a=16.0,
            w_0=16,
            w_m=2.0,
            group_width=8,
            norm="BN",
            out_features=["s2", "s3"],
        )
        names = ["s2", "s3"]
    else:
        backbone, names = Swin("swin_t", ["p1", "p2"]), ["p1", "p2"]
    cfg.MODEL.DETR.IN_FEATURES = names
    model = DETR(cfg, backbone)
    assert sum(model(batch()).values()).isfinite()
    assert model.encode(model.preprocess_image(batch())).memory.cells_per_level[0] > 0


def test_masks_read_the_coarsest_feature_of_the_backbone(cfg):
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3"]
    cfg.MODEL.DETR.update(VARIANTS["dino"])
    cfg.MODEL.MASK_ON = True
    model = build_model(cfg)
    encoded = model.encode(model.preprocess_image(batch()))
    assert encoded.src.shape[-2:] == encoded.memory.shapes[1]
    assert model.mask_inputs(encoded).maps.shape[-2:] == encoded.memory.shapes[1]
    results = model.eval()([make_input(64, 96)])
    assert results[0]["instances"].pred_masks.shape[-2:] == (64, 96)


def test_levels_and_their_valid_ratios():
    projection = SeveralLevels([8, 16], embed_dim=32, num_levels=4)
    features = [torch.randn(2, 8, 9, 14), torch.randn(2, 16, 5, 7)]
    maps = projection(features)
    assert [x.shape[1:] for x in maps] == [(32, 9, 14), (32, 5, 7), (32, 3, 4), (32, 2, 2)]
    torch.testing.assert_close(maps[2], projection[2](features[1]))  # of the raw feature

    mask = torch.zeros(1, 2, 4, dtype=torch.bool)
    mask[:, :1, :3] = True
    tokens = torch.randn(1, 8 + 2, 4)
    whole = torch.ones(1, 2, dtype=torch.bool)
    memory = Memory(tokens, tokens, torch.cat((mask.flatten(1), whole), 1), ((2, 4), (1, 2)))
    ratios = memory.valid_ratios()
    assert ratios[0].tolist() == [[0.75, 0.5], [1.0, 1.0]]
    centres = memory.centres(ratios)[0]
    torch.testing.assert_close(centres[1], torch.tensor([1.5 / 3, 0.5]))
    torch.testing.assert_close(centres[-1], torch.tensor([0.75, 0.5]))
    assert torch.equal(memory.level(1).tokens, tokens[:, 8:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"IN_FEATURES": ["res2", "res5"]}, r"IN_FEATURES are \['res2', 'res5'\], but the backb"),
        ({"IN_FEATURES": ["res3", "res2"]}, "must go from fine to coarse"),
        ({"IN_FEATURES": []}, "but the backbone gives"),
        ({"NUM_LEVELS": 1}, "NUM_LEVELS is 1, but there are 2 MODEL.DETR.IN_FEATURES already"),
        ({"NHEADS": 3}, "NHEADS"),
        ({"HIDDEN_DIM": 48}, "HIDDEN_DIM is 48, but the projections of several levels need"),
        ({"ENCODER": "other"}, "ENCODER is 'other'; there are deformable, detr"),
        ({"DECODER": "deformable", "TWO_STAGE": True}, "TWO_STAGE needs layers that refine boxes"),
        ({"PROPOSAL_LEARNING": "x", "TWO_STAGE": True}, "PROPOSAL_LEARNING is 'x'; choose from"),
        ({"PROPOSAL_SIZE": 0.3, "TWO_STAGE": True}, "PROPOSAL_SIZE is 0.3, and 1.2 in the last"),
        ({"NUM_OBJECT_QUERIES": 999, "TWO_STAGE": True}, "cells, of which .* choose 999 queries"),
        ({"SAMPLING_POINTS": 0}, "SAMPLING_POINTS is 0, but must be at least 1"),
    ],
)
def test_bad_settings(cfg, settings, message):
    cfg.MODEL.DETR.DECODER = "dino"
    cfg.MODEL.DETR.update(settings)
    with pytest.raises(UserError, match=message):
        build_model(cfg)
