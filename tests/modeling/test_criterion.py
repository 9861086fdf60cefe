from pathlib import Path

import pytest
import torch
from detectron2.structures import BitMasks, Instances
from torch.utils.flop_counter import TorchDispatchMode

from d2detr.modeling import Group, HungarianMatcher, SetCriterion, SoftmaxWithNoObject, Targets
from d2detr.modeling.targets import join_masks

REFERENCE = torch.load(
    Path(__file__).parents[1] / "reference" / "criterion_cases.pt", weights_only=True
)
CASES = [name for name in REFERENCE if name.startswith("case")]


def make_criterion(num_classes, **options):
    return SetCriterion(HungarianMatcher(SoftmaxWithNoObject(num_classes)), **options)


def make_group(outputs, targets):
    return [Group(outputs["pred_logits"], outputs["pred_boxes"], targets)]


def stack_layers(case, dtype=torch.float32):
    """Outputs with the auxiliary layers first, as leaves with gradients."""
    inputs = case["inputs"]
    logits = torch.stack([*(x[0] for x in inputs["aux"]), inputs["pred_logits"]])
    boxes = torch.stack([*(x[1] for x in inputs["aux"]), inputs["pred_boxes"]])
    return {
        "pred_logits": logits.to(dtype).requires_grad_(),
        "pred_boxes": boxes.to(dtype).requires_grad_(),
    }


def make_targets(case):
    instances = []
    for x in case["targets"]:
        instances.append(Instances(tuple(x["masks"].shape[1:])))
        instances[-1].gt_masks = BitMasks(x["masks"])
    size = [max(sizes) for sizes in zip(*(x.image_size for x in instances), strict=True)]
    return Targets.create(
        [x["labels"] for x in case["targets"]],
        [x["boxes"] for x in case["targets"]],
        masks=join_masks(instances, tuple(size)),
    )


@pytest.mark.parametrize("name", CASES)
def test_losses_and_gradients_of_the_original(name):
    case = REFERENCE[name]
    outputs = stack_layers(case)
    masks = case["inputs"]["pred_masks"].clone().requires_grad_()
    losses, metrics = make_criterion(case["C"])(
        make_group(outputs, make_targets(case)), lambda image, query: masks[image, query]
    )

    expected = case["losses"]
    assert losses.keys() == case["weight_dict"].keys() & expected.keys()
    for key, loss in losses.items():
        weighted = case["weight_dict"][key] * expected[key]
        assert loss.item() == pytest.approx(weighted, rel=1e-5, abs=1e-6), key
    for key, value in metrics.items():
        assert value == pytest.approx(expected[key], rel=1e-5)

    sum(losses.values()).backward()
    logits, boxes, mask_gradient, *aux = case["grads"]
    torch.testing.assert_close(masks.grad, mask_gradient, atol=1e-7, rtol=1e-4)
    expected_logits = torch.stack([*aux[0::2], logits])
    expected_boxes = torch.stack([*aux[1::2], boxes])
    torch.testing.assert_close(outputs["pred_logits"].grad, expected_logits, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(outputs["pred_boxes"].grad, expected_boxes, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CASES)
def test_matching_of_the_original(name):
    case = REFERENCE[name]
    inputs, targets = case["inputs"], make_targets(case)
    matcher = HungarianMatcher(SoftmaxWithNoObject(case["C"]))
    matching = matcher(inputs["pred_logits"][None], inputs["pred_boxes"][None], targets)
    starts = [sum(targets.counts[:i]) for i in range(len(targets.counts))]
    expected = {
        (image, query, starts[image] + target)
        for image, pair in enumerate(case["indices"])
        for query, target in zip(*pair, strict=True)
    }
    actual = zip(
        matching.image.tolist(),
        matching.query[0].tolist(),
        matching.target[0].tolist(),
        strict=True,
    )
    assert set(actual) == expected


def test_names_of_the_losses_and_weight_zero():
    case = REFERENCE[CASES[1]]
    group = make_group(stack_layers(case), make_targets(case))
    losses, _ = make_criterion(case["C"], giou_weight=0.0)(group)
    assert set(losses) == {
        f"{name}{suffix}" for name in ("loss_ce", "loss_bbox") for suffix in ("", "_0", "_1")
    }


def test_batch_without_objects_trains_no_object_alone():
    outputs = stack_layers(REFERENCE[CASES[1]])
    targets = Targets.create([torch.empty(0, dtype=torch.long)] * 2, [torch.empty(0, 4)] * 2)
    losses, metrics = make_criterion(7)(make_group(outputs, targets))
    sum(losses.values()).backward()
    assert losses["loss_bbox"] == losses["loss_giou"] == 0
    assert outputs["pred_boxes"].grad.abs().sum() == 0
    assert metrics["class_error"] == 100


@pytest.mark.parametrize("fault", ["pred_logits", "pred_boxes"])
def test_non_finite_predictions_are_named(fault):
    case = REFERENCE[CASES[1]]
    outputs = {name: x.detach() for name, x in stack_layers(case).items()}
    outputs[fault][1, 0, 2, 0] = float("nan")
    with pytest.raises(FloatingPointError, match=f"{fault} of decoder layer 1$"):
        make_criterion(case["C"])(make_group(outputs, make_targets(case)))


def test_float32_under_autocast():
    case = REFERENCE[CASES[1]]
    criterion, targets = make_criterion(case["C"]), make_targets(case)
    expected, _ = criterion(make_group(stack_layers(case), targets))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = criterion(make_group(stack_layers(case), targets))
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        assert torch.equal(loss, expected[name])


def test_targets_without_area_give_finite_losses():
    outputs = stack_layers(REFERENCE[CASES[1]])
    outputs["pred_boxes"].data[..., 2:] = 0
    boxes = outputs["pred_boxes"][-1, :, :1].detach()  # the same points as the predictions
    targets = Targets.create([torch.tensor([0]), torch.tensor([1])], list(boxes))
    losses, _ = make_criterion(7)(make_group(outputs, targets))
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    assert torch.isfinite(outputs["pred_boxes"].grad).all()


class _Operators(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_one_pass_for_all_layers_and_images():
    """More layers and more images take hardly any more operators."""

    def count(num_layers, batch):
        outputs = {
            "pred_logits": torch.randn(num_layers, batch, 20, 8),
            "pred_boxes": torch.rand(num_layers, batch, 20, 4),
        }
        targets = Targets.create([torch.tensor([1, 2])] * batch, [torch.rand(2, 4)] * batch)
        with _Operators() as operators:
            make_criterion(7)(make_group(outputs, targets))
        return len(operators.names)

    assert count(6, 8) <= count(1, 1) + 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_waits_for_the_device_once():
    case = REFERENCE[CASES[0]]
    outputs = {name: x.detach().cuda() for name, x in stack_layers(case).items()}
    criterion = make_criterion(case["C"]).cuda()
    targets = Targets.create(
        [x["labels"] for x in case["targets"]], [x["boxes"] for x in case["targets"]], "cuda"
    )
    criterion(make_group(outputs, targets))
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with pytest.warns(UserWarning, match="synchronizing") as warnings:
            criterion(make_group(outputs, targets))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(warnings) == 1
