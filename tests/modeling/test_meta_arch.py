"""Detectron2's expectations of a model, and DETR's own promises."""

import copy
import pickle
import shutil

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.export import TracingAdapter
from detectron2.modeling import build_backbone, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from d2detr import add_detr_config
from d2detr.errors import UserError
from d2detr.layers import SinePositionEncoding
from d2detr.modeling import (
    DETR,
    DETRDecoder,
    DETREncoder,
    HungarianMatcher,
    SetCriterion,
    SoftmaxWithNoObject,
    Transformer,
)
from tests.modeling.inputs import make_input


@pytest.fixture
def model(tiny_cfg):
    torch.manual_seed(0)
    return build_model(tiny_cfg)


def test_losses_are_weighted_named_and_differentiable(model):
    with EventStorage() as storage:
        losses = model([make_input(64, 48, 2), make_input(48, 64, 1)])
        metrics = storage.latest()
    assert set(losses) == {
        f"{name}{layer}"
        for name in ("loss_ce", "loss_bbox", "loss_giou")
        for layer in ("", "_0", "_1")
    }
    assert set(metrics) == {"class_error", "cardinality_error"}
    sum(losses.values()).backward()
    assert all(x.grad is not None for x in model.parameters())


@pytest.mark.parametrize("num_objects", [(0, 0), (0, 3), (25,)], ids=str)
def test_trains_with_any_number_of_objects(model, num_objects):
    """No objects at all, none in one image, and more than there are queries."""
    inputs = [make_input(48, 48, n, seed=n) for n in num_objects]
    for x in inputs:
        x["instances"].gt_classes %= 5
    losses = model(inputs)
    assert all(torch.isfinite(x) for x in losses.values())


def test_without_deep_supervision_the_last_layer_learns_alone(tiny_cfg):
    tiny_cfg.MODEL.DETR.DEEP_SUPERVISION = False
    losses = build_model(tiny_cfg)([make_input(48, 48, 1)])
    assert set(losses) == {"loss_ce", "loss_bbox", "loss_giou"}


def test_single_class(tiny_cfg):
    tiny_cfg.MODEL.DETR.NUM_CLASSES = 1
    model = build_model(tiny_cfg)
    assert all(torch.isfinite(x) for x in model([make_input(48, 48, 1)]).values())
    assert model.eval()([make_input(48, 48)])[0]["instances"].pred_classes.unique().tolist() == [0]


@pytest.mark.parametrize("num_classes_given", [-1, 5])
def test_classes_outside_the_range_are_refused(model, num_classes_given):
    x = make_input(48, 48, 1)
    x["instances"].gt_classes[0] = num_classes_given
    with pytest.raises(UserError, match=r"not all in \[0, 4\]: the model has 5 classes"):
        model([x])


def test_training_without_instances_names_the_image(model):
    with pytest.raises(UserError, match="a.jpg has no 'instances'"):
        model([{"image": torch.zeros(3, 32, 32), "file_name": "a.jpg"}])


def test_non_finite_predictions_say_which(model):
    model.heads.bbox_embed.layers[-1].bias.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="pred_boxes of decoder layer 0"):
        model([make_input(48, 48, 1)])


def test_inference_output(model):
    result = model.eval()([{**make_input(40, 56), "height": 80, "width": 112}])[0]["instances"]
    assert result.image_size == (80, 112)
    assert len(result) == 10
    assert set(result.get_fields()) == {"pred_boxes", "scores", "pred_classes"}
    assert result.pred_boxes.tensor.shape == (10, 4)


def test_size_of_the_input_unless_told_otherwise(model):
    image = make_input(40, 56)["image"]
    same = model.eval()([{"image": image, "height": 40, "width": 56}])[0]["instances"]
    default = model([{"image": image, "unknown": "key"}])[0]["instances"]
    assert default.image_size == (40, 56)
    assert torch.equal(default.pred_boxes.tensor, same.pred_boxes.tensor)


def test_no_inputs_give_no_outputs(model):
    assert model.eval()([]) == []


@pytest.mark.parametrize("size", [(1, 40), (40, 1), (1, 1)])
def test_images_of_one_pixel(model, size):
    boxes = model.eval()([make_input(*size)])[0]["instances"].pred_boxes.tensor
    assert torch.isfinite(boxes).all()
    assert all(torch.isfinite(x) for x in model.train()([make_input(*size, 1)]).values())


def test_float_images_equal_uint8_images(model):
    image = make_input(40, 56)["image"]
    as_uint8, as_float = (
        model.eval()([{"image": x}])[0]["instances"] for x in (image, image.float())
    )
    assert torch.equal(as_uint8.scores, as_float.scores)


def test_limits_of_the_detections(tiny_cfg):
    tiny_cfg.MODEL.DETR.TEST.DETECTIONS_PER_IMAGE = 4
    model = build_model(tiny_cfg).eval()
    scores = model([make_input(48, 48)])[0]["instances"].scores
    assert len(scores) == 4
    assert torch.equal(scores, scores.sort(descending=True).values)

    model.score_threshold = (scores[1] + scores[2]).item() / 2
    assert len(model([make_input(48, 48)])[0]["instances"]) == 2


@pytest.mark.parametrize("encoding", ["sine", "learned"])
def test_detections_do_not_depend_on_the_batch(tiny_cfg, encoding):
    """Padding changes an image's detections only by what it changes at the border of features.

    Past the image, convolutions see normalised zeros in a batch as well as alone, but deeper
    layers see what the biases made of the padding. With a backbone that gives the same features,
    nothing changes at all.
    """
    tiny_cfg.MODEL.DETR.POSITION_EMBEDDING = encoding
    model = build_model(tiny_cfg).eval()
    model.backbone = _PixelBackbone(model.backbone.output_shape())
    image, larger = make_input(48, 64), make_input(96, 128, seed=1)
    alone = model([image])[0]["instances"]
    padded = model([image, larger])[0]["instances"]
    torch.testing.assert_close(padded.pred_boxes.tensor, alone.pred_boxes.tensor)
    torch.testing.assert_close(padded.scores, alone.scores)


class _PixelBackbone(torch.nn.Module):
    """Features of stride 16 that see one pixel each, so that padding cannot leak into them."""

    size_divisibility = 0

    def __init__(self, output_shape):
        super().__init__()
        self._output_shape = output_shape
        self.project = torch.nn.Conv2d(3, output_shape["res3"].channels, 1)

    def output_shape(self):
        return self._output_shape

    def forward(self, x):
        return {"res3": self.project(x)[:, :, ::16, ::16]}


def test_order_of_the_batch_does_not_matter(model):
    inputs = [make_input(48, 64), make_input(96, 80, seed=1), make_input(32, 32, seed=2)]
    forward = model.eval()(inputs)
    backward = model(inputs[::-1])[::-1]
    for a, b in zip(forward, backward, strict=True):
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores)


def test_device_is_that_of_the_buffers(model):
    assert model.device == torch.device("cpu")
    assert "pixel_mean" not in model.state_dict()
    clone = copy.deepcopy(model).eval()
    inputs = [make_input(48, 48)]
    expected = model.eval()(inputs)[0]["instances"].scores
    assert torch.equal(clone(inputs)[0]["instances"].scores, expected)
    assert model.to("meta").device.type == "meta"


def test_autocast_gives_float32_losses_and_boxes(model):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model([make_input(48, 48, 2)])
        boxes = model.eval()([make_input(48, 48)])[0]["instances"].pred_boxes.tensor
    assert {x.dtype for x in losses.values()} == {torch.float32}
    assert boxes.dtype == torch.float32


def test_trains_in_double_precision(tiny_mask_cfg):
    tiny_mask_cfg.MODEL.DETR.DROPOUT = 0.0
    model = build_model(tiny_mask_cfg)
    inputs = [make_input(64, 48, 2, masks=True), make_input(48, 64, 1, masks=True)]
    expected = model(inputs)
    losses = model.double()(inputs)
    for name, loss in losses.items():
        assert loss.dtype == torch.float64
        assert loss != loss.float()
        torch.testing.assert_close(loss.float(), expected[name], atol=1e-5, rtol=1e-5)
    sum(losses.values()).backward()


def test_tracing_serves_other_sizes(model):
    """A trace made at one size gives the eager results at another: nothing of it is a constant."""
    model.eval()
    adapter = TracingAdapter(model, [{"image": make_input(48, 64)["image"]}])
    traced = torch.jit.trace(adapter, adapter.flattened_inputs, check_trace=False)
    other = make_input(80, 56, seed=1)["image"]
    boxes, *_ = traced(other)
    expected = model([{"image": other}])[0]["instances"].pred_boxes.tensor
    torch.testing.assert_close(boxes, expected, atol=1e-4, rtol=1e-4)


def test_built_from_python_without_a_config(tiny_cfg):
    classification = SoftmaxWithNoObject(3)
    model = DETR(
        backbone=build_backbone(tiny_cfg),
        in_features=["res3"],
        position_encoding=SinePositionEncoding(32),
        transformer=Transformer(
            DETREncoder(embed_dim=32, feedforward_dim=64),
            DETRDecoder(num_queries=7, embed_dim=32, feedforward_dim=64),
        ),
        classification=classification,
        criterion=SetCriterion(HungarianMatcher(classification)),
        pixel_mean=(0.0, 0.0, 0.0),
        pixel_std=(1.0, 1.0, 1.0),
    )
    assert len(model.eval()([make_input(48, 48)])[0]["instances"]) == 7


WRAPPER_YAML = """
MODEL:
  META_ARCHITECTURE: "Detr"
  WEIGHTS: "detectron2://ImageNetPretrained/torchvision/R-50.pkl"
  PIXEL_MEAN: [123.675, 116.280, 103.530]
  PIXEL_STD: [58.395, 57.120, 57.375]
  MASK_ON: False
  RESNETS:
    DEPTH: 50
    STRIDE_IN_1X1: False
    OUT_FEATURES: ["res2", "res3", "res3", "res5"]
  DETR:
    GIOU_WEIGHT: 2.0
    L1_WEIGHT: 5.0
    NUM_OBJECT_QUERIES: 100
DATASETS:
  TRAIN: ("coco_2017_train",)
  TEST: ("coco_2017_val",)
SOLVER:
  IMS_PER_BATCH: 64
  BASE_LR: 0.0001
  STEPS: (369600,)
  MAX_ITER: 554400
  WARMUP_FACTOR: 1.0
  WARMUP_ITERS: 10
  WEIGHT_DECAY: 0.0001
  OPTIMIZER: "ADAMW"
  BACKBONE_MULTIPLIER: 0.1
  CLIP_GRADIENTS:
    ENABLED: True
    CLIP_TYPE: "full_model"
    CLIP_VALUE: 0.01
    NORM_TYPE: 2.0
INPUT:
  MIN_SIZE_TRAIN: (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
  CROP:
    ENABLED: True
    TYPE: "absolute_range"
    SIZE: (384, 600)
  FORMAT: "RGB"
VERSION: 2
"""


def test_yaml_of_the_original_wrapper_builds(tmp_path):
    path = tmp_path / "detr_256_6_6_torchvision.yaml"
    path.write_text(WRAPPER_YAML)
    cfg = get_cfg()
    add_detr_config(cfg)
    cfg.merge_from_file(str(path))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert isinstance(model, DETR)
    assert model.num_classes == 80


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("NHEADS", 5, "MODEL.DETR.HIDDEN_DIM 32 is not divisible by MODEL.DETR.NHEADS 5"),
        ("IN_FEATURES", ["res5"], "IN_FEATURES are .'res5'., but the backbone gives .'res3'."),
        ("DEC_LAYERS", 0, "DEC_LAYERS is 0, but must be at least 1"),
        ("NUM_OBJECT_QUERIES", 0, "NUM_OBJECT_QUERIES is 0"),
        ("DROPOUT", 1.0, "MODEL.DETR.DROPOUT is 1.0; it must be at least 0 and below 1"),
        ("POSITION_EMBEDDING", "cosine", "MODEL.DETR.POSITION_EMBEDDING is 'cosine'; choose from"),
        ("DECODER", "dert", "MODEL.DETR.DECODER is 'dert'; there are .*detr"),
        ("CLASSIFICATION", "sigmoid", "CLASSIFICATION is 'sigmoid'; choose from .'focal', 'soft"),
        ("ACTIVATION", "gelu", "MODEL.DETR.ACTIVATION is 'gelu'; choose from"),
    ],
)
def test_impossible_settings(tiny_cfg, key, value, message):
    tiny_cfg.MODEL.DETR[key] = value
    with pytest.raises(UserError, match=message):
        build_model(tiny_cfg)


def test_no_classes_and_no_dataset(tiny_cfg):
    tiny_cfg.MODEL.DETR.NUM_CLASSES = 0
    tiny_cfg.DATASETS.TRAIN = tiny_cfg.DATASETS.TEST = ()
    with pytest.raises(UserError, match="Set MODEL.DETR.NUM_CLASSES"):
        build_model(tiny_cfg)


def test_instances_of_other_models_are_enough(model):
    """Any mapper's Instances train DETR: boxes beyond the image or without area do not break it."""
    instances = Instances((48, 48))
    instances.gt_boxes = Boxes(torch.tensor([[-5.0, -5.0, 60.0, 60.0], [7.0, 7.0, 7.0, 9.0]]))
    instances.gt_classes = torch.tensor([0, 4])
    instances.gt_other = torch.tensor([1, 2])
    losses = model([{"image": torch.zeros(3, 48, 48), "instances": instances}])
    assert all(torch.isfinite(x) for x in losses.values())


def run_and_measure(model, inputs):
    """The total loss, and the bytes of the tensors that autograd keeps for the backward pass."""
    sizes = {}

    def pack(tensor):
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        total = sum(model(inputs).values())
    return total, sum(sizes.values())


@pytest.mark.parametrize("part", ["backbone", "encoder", "decoder"])
def test_recomputed_activations_take_less_memory_and_give_the_same(tiny_cfg, part):
    tiny_cfg.MODEL.DETR.DROPOUT = 0.1
    inputs = [make_input(64, 48, 2), make_input(48, 64, 1)]
    results, stored = [], []
    for parts in ((), (part,)):
        tiny_cfg.MODEL.DETR.ACTIVATION_CHECKPOINTING = parts
        torch.manual_seed(0)
        model = copy.deepcopy(build_model(tiny_cfg))
        total, size = run_and_measure(model, inputs)
        total.backward()
        stored.append(size)
        results.append([total, *(x.grad for x in model.parameters()), model.state_dict()])
    torch.testing.assert_close(*results)
    assert stored[1] < 0.9 * stored[0]


@pytest.mark.parametrize("copied_by", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_recomputing_models_can_be_copied(tiny_cfg, copied_by):
    tiny_cfg.MODEL.DETR.ACTIVATION_CHECKPOINTING = ("backbone", "encoder", "decoder")
    model = build_model(tiny_cfg)
    copied = copied_by(model)
    assert str(copied) == str(model)
    assert [type(x) for x in copied.modules()] == [type(x) for x in model.modules()]
    torch.testing.assert_close(copied.state_dict(), model.state_dict())


def test_unknown_part_to_recompute(tiny_cfg):
    tiny_cfg.MODEL.DETR.ACTIVATION_CHECKPOINTING = ("neck",)
    with pytest.raises(UserError, match="ACTIVATION_CHECKPOINTING names 'neck'.*'encoder'"):
        build_model(tiny_cfg)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_detects_in_mixed_precision(model, dtype):
    inputs = [make_input(64, 48), make_input(48, 64)]
    model.eval()
    expected = model(inputs)
    with torch.autocast("cpu", dtype):
        results = model(inputs)
    for result, other in zip(results, expected, strict=True):
        result, other = result["instances"], other["instances"]
        torch.testing.assert_close(result.scores, other.scores, rtol=0, atol=0.02)
        boxes, expected_boxes = result.pred_boxes.tensor, other.pred_boxes.tensor
        torch.testing.assert_close(boxes.float(), expected_boxes, rtol=0, atol=1.0)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_model_gives_the_same_at_every_size_without_compiling_again(tiny_cfg):
    """With the blocks of ResNet-50. Plain, it gives what the original gives: see test_parity."""
    tiny_cfg.MODEL.BACKBONE.NAME = "build_resnet_backbone"
    tiny_cfg.MODEL.BACKBONE.FREEZE_AT = 1
    tiny_cfg.MODEL.RESNETS.OUT_FEATURES = ["res2"]
    tiny_cfg.MODEL.DETR.IN_FEATURES = ["res2"]
    tiny_cfg.MODEL.DETR.ENC_LAYERS = tiny_cfg.MODEL.DETR.DEC_LAYERS = 1
    results = []
    for compiled in (False, True):
        tiny_cfg.MODEL.COMPILE = compiled
        torch.manual_seed(0)
        model = build_model(tiny_cfg)
        losses = model([make_input(112, 96, 2), make_input(96, 112, 1)])
        sum(losses.values()).backward()
        gradients = [x.grad for x in model.parameters() if x.requires_grad]
        num_graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        model.eval()
        detections = []
        for height, width in ((112, 96), (96, 128), (160, 128)):
            result = model([make_input(height, width)])[0]["instances"]
            detections.append([result.scores, result.pred_boxes.tensor])
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"] - num_graphs
        results.append([losses, gradients, detections])
    torch.testing.assert_close(results[1], results[0], rtol=1e-3, atol=1e-4)
    assert graphs == 2  # backbone and transformer
