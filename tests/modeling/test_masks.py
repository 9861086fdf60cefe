"""DETR with a mask head, as Detectron2 uses it."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, PolygonMasks

from d2detr.engine import build_optimizer
from d2detr.errors import UserError
from d2detr.model_zoo import get_config
from d2detr.modeling.mask_head import AttentionMaps, MaskHead
from tests.modeling.inputs import make_input


def make_mask_input(height, width, num_objects=0, seed=0):
    """The objects' masks are their boxes."""
    x = make_input(height, width, num_objects, seed)
    masks = torch.zeros(num_objects, height, width, dtype=torch.bool)
    for mask, box in zip(masks, x["instances"].gt_boxes.tensor.int().tolist(), strict=True):
        mask[box[1] : box[3], box[0] : box[2]] = True
    x["instances"].gt_masks = BitMasks(masks)
    return x


@pytest.fixture
def model(tiny_mask_cfg):
    torch.manual_seed(0)
    return build_model(tiny_mask_cfg)


def keep_segments(model):
    """Makes untrained queries confident enough to become segments."""
    model.segmenter.panoptic_threshold = 0.0
    model.heads.class_embed.bias.data[-1] = -10


def test_attention_maps_are_one_distribution_without_padding():
    maps = AttentionMaps(32, 8)
    mask = torch.ones(2, 12, dtype=torch.bool)
    mask[1, 9:] = False
    weights = maps(torch.randn(2, 5, 32), torch.randn(2, 12, 32), mask)
    assert weights.shape == (2, 5, 8, 12)
    torch.testing.assert_close(weights.sum((2, 3)), torch.ones(2, 5))
    assert weights[1, :, :, 9:].abs().max() == 0


def test_masks_have_losses_of_the_last_layer_alone(model):
    losses = model([make_mask_input(64, 48, 2), make_mask_input(48, 64, 1)])
    assert [x for x in losses if "mask" in x or "dice" in x] == ["loss_mask", "loss_dice"]
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.parameters())


def test_mask_loss_falls(model):
    """The whole path learns to draw one object."""
    inputs = [make_mask_input(48, 48, 1)]
    optimizer = torch.optim.AdamW(model.mask_head.parameters(), 5e-3)
    history = []
    for _ in range(15):
        losses = model(inputs)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        history.append(losses["loss_mask"].item() + losses["loss_dice"].item())
    assert history[-1] < 0.7 * history[0]


@pytest.mark.parametrize("num_objects", [(0, 0), (0, 3), (25,)], ids=str)
def test_trains_with_any_number_of_objects(model, num_objects):
    inputs = [make_mask_input(48, 48, n, seed=n) for n in num_objects]
    for x in inputs:
        x["instances"].gt_classes %= 7
    losses = model(inputs)
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    # Distributed training needs a gradient of every parameter on every worker.
    assert all(x.grad is not None for x in model.parameters())


def test_polygons_train_like_bitmaps(model):
    bitmaps, polygons = make_mask_input(64, 48, 1), make_mask_input(64, 48, 1)
    x0, y0, x1, y1 = bitmaps["instances"].gt_boxes.tensor.int()[0].tolist()
    corners = [x0, y0, x1, y0, x1, y1, x0, y1]
    polygons["instances"].gt_masks = PolygonMasks([[torch.tensor(corners).double().numpy()]])
    expected, losses = model([bitmaps]), model([polygons])
    assert losses["loss_dice"].item() == pytest.approx(expected["loss_dice"].item(), rel=0.05)


def test_instances_without_masks_are_explained(model):
    with pytest.raises(UserError, match="no 'gt_masks'.*without a mask head"):
        model([make_input(48, 48, 1)])
    model([make_input(48, 48, 0)])  # Detectron2's mapper leaves out masks of nothing


def test_autocast_gives_float32_losses(model):
    inputs = [make_mask_input(48, 48, 2)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(inputs)
        masks = model.eval()(inputs)[0]["instances"].pred_masks
    assert {x.dtype for x in losses.values()} == {torch.float32}
    assert masks.dtype == torch.bool


def test_inference_output(model):
    keep_segments(model)
    result = model.eval()([{**make_input(40, 56), "height": 80, "width": 112}])[0]
    assert result["instances"].pred_masks.shape == (10, 80, 112)
    assert result["instances"].pred_masks.dtype == torch.bool
    assert "query_index" not in result["instances"].get_fields()
    ids, segments = result["panoptic_seg"]
    assert ids.shape == (80, 112)
    assert set(ids.unique().tolist()) == {x["id"] for x in segments}
    assert all(x["isthing"] == (x["category_id"] < 5) for x in segments)


def test_masks_belong_to_the_detections_that_are_kept(model):
    everything = model.eval()([make_input(48, 48)])[0]["instances"]
    best = everything.scores.topk(3).indices
    model.detections_per_image = 3
    kept = model([make_input(48, 48)])[0]["instances"]
    assert torch.equal(kept.pred_masks, everything.pred_masks[best])
    model.score_threshold = 1.0
    assert model([make_input(48, 48)])[0]["instances"].pred_masks.shape == (0, 48, 48)


class _PixelBackbone(torch.nn.Module):
    """Features that see one pixel each, so that padding cannot leak into them."""

    size_divisibility = 0

    def __init__(self, output_shape):
        super().__init__()
        self._output_shape = output_shape
        self.projections = torch.nn.ModuleDict(
            {name: torch.nn.Conv2d(3, shape.channels, 1) for name, shape in output_shape.items()}
        )

    def output_shape(self):
        return self._output_shape

    def forward(self, x):
        return {
            name: self.projections[name](x)[:, :, :: shape.stride, :: shape.stride]
            for name, shape in self._output_shape.items()
        }


def test_attention_maps_do_not_depend_on_the_batch(model):
    model.eval().backbone = _PixelBackbone(model.backbone.output_shape())
    image, larger = make_input(48, 64), make_input(96, 128, seed=1)

    def maps(inputs):
        encoded = model.encode(model.preprocess_image(inputs))
        hs = encoded.decoded.hs[-1]
        return model.mask_head.prepare(hs, encoded.memory, encoded.src, encoded.features).maps[0]

    alone, padded = maps([image]), maps([image, larger])
    torch.testing.assert_close(padded[..., :3, :4], alone)
    assert padded[..., 3:, :].abs().max() == 0


def test_results_keep_their_place_in_the_batch(model):
    keep_segments(model)
    inputs = [make_input(64, 48), make_input(64, 48, seed=1)]
    together = model.eval()(inputs)
    for x, result in zip(inputs, together, strict=True):
        alone = model([x])[0]
        assert (
            alone["instances"].pred_masks == result["instances"].pred_masks
        ).float().mean() > 0.99
        assert (alone["panoptic_seg"][0] == result["panoptic_seg"][0]).float().mean() > 0.99


def test_frozen_box_model_trains_the_mask_head_alone(tiny_mask_cfg):
    tiny_mask_cfg.MODEL.DETR.FREEZE_BOX_MODEL = True
    tiny_mask_cfg.MODEL.DETR.DROPOUT = 0.5
    model = build_model(tiny_mask_cfg)
    trained = {name for name, x in model.named_parameters() if x.requires_grad}
    assert trained == {f"mask_head.{name}" for name, _ in model.mask_head.named_parameters()}
    optimizer = build_optimizer(tiny_mask_cfg, model)
    assert {id(x) for group in optimizer.param_groups for x in group["params"]} == {
        id(x) for x in model.mask_head.parameters()
    }
    first, second = (model([make_mask_input(48, 48, 2)]) for _ in range(2))
    # As in the original, dropout of the frozen part stays on.
    assert first["loss_ce"] != second["loss_ce"]
    sum(first.values()).backward()
    for name, x in model.named_parameters():
        assert (x.grad is not None) == (name in trained), name


def test_number_of_parameters_that_learn_on_a_frozen_r50():
    cfg = get_config("detr_segm_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert sum(x.numel() for x in model.parameters() if x.requires_grad) == 1_333_657


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.MASK_ON", False, "PANOPTIC_ON needs masks, but MODEL.MASK_ON is False"),
        (
            "MODEL.RESNETS.OUT_FEATURES",
            ["res3"],
            "finer than 'res3' of MODEL.DETR.IN_FEATURES.*gives",
        ),
        ("MODEL.DETR.TEST.MASK_THRESHOLD", 1.0, "MASK_THRESHOLD is 1.0; it must be between 0"),
        ("MODEL.DETR.TEST.PANOPTIC_THRESHOLD", 1.5, "PANOPTIC_THRESHOLD is 1.5; it must be in"),
        ("MODEL.DETR.TEST.STUFF_AREA", -1, "STUFF_AREA is -1; it must be at least 0"),
        ("DATASETS.TRAIN", ("shapes_train",), "the metadata of 'shapes_train' does not"),
        (
            "DATASETS.TRAIN",
            ("coco_2017_train_panoptic_separated",),
            "one range of classes.*number stuff for itself",
        ),
    ],
)
def test_impossible_settings(tiny_mask_cfg, key, value, message):
    tiny_mask_cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=message):
        build_model(tiny_mask_cfg)


def test_width_that_cannot_be_halved_often_enough():
    with pytest.raises(UserError, match="embed_dim 20 is not divisible by 8"):
        MaskHead(embed_dim=20, num_heads=4, in_features=["res2", "stem"], in_channels=[8, 4])


def test_nothing_to_train(tiny_cfg):
    tiny_cfg.MODEL.DETR.FREEZE_BOX_MODEL = True
    with pytest.raises(
        UserError,
        match=r"mask head \(MODEL.MASK_ON\) nothing is left to train.*MODEL.DETR.FREEZE_BOX_MODEL",
    ):
        build_model(tiny_cfg)


def test_things_of_a_model_with_the_category_ids_of_the_original():
    cfg = get_config("detr_panoptic_r50.yaml")
    cfg.MODEL.DEVICE = "cpu"
    assert max(build_model(cfg).segmenter.thing_classes) == 79
    cfg.MODEL.DETR.NUM_CLASSES = 250
    assert max(build_model(cfg).segmenter.thing_classes) == 90
