import pytest
import torch
from detectron2.modeling import build_model
from torch import nn

from d2detr.engine import build_optimizer
from d2detr.engine.step import TrainingStep
from d2detr.errors import UserError
from tests.modeling.inputs import make_input


def take_step(model, optimizer, batch, num_parts):
    step = TrainingStep(model, optimizer, num_parts=num_parts)
    losses = step.compute_gradients(batch)
    gradients = {name: x.grad.clone() for name, x in model.named_parameters()}
    step.update()
    return losses, gradients, model.state_dict()


@pytest.mark.parametrize("num_parts", [2, 3, 9])
@pytest.mark.parametrize("masks", [False, True])
def test_parts_of_a_batch_give_the_same_update(request, num_parts, masks):
    """Also with unequal numbers of objects, none at all, and more than there are queries."""
    cfg = request.getfixturevalue("tiny_mask_cfg" if masks else "tiny_cfg")
    batch = [make_input(48, 64, n, seed=n, masks=masks) for n in (1, 0, 12, 3, 0)]
    for x in batch:
        x["instances"].gt_classes %= 5
    results = []
    for parts in (1, num_parts):
        torch.manual_seed(0)
        model = build_model(cfg)
        results.append(take_step(model, build_optimizer(cfg, model), batch, parts))
    for whole, in_parts in zip(*results, strict=True):
        torch.testing.assert_close(in_parts, whole, rtol=1e-3, atol=2e-5)


def test_losses_of_a_part_are_divided_by_the_objects_of_the_batch(tiny_cfg):
    model = build_model(tiny_cfg)
    batch = [make_input(48, 48, n, seed=n) for n in (1, 4)]
    before = model(batch[:1])
    part = model(batch[:1], divisor=model.loss_divisor(batch))
    torch.testing.assert_close(part["loss_bbox"], before["loss_bbox"] / 5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("masks", [False, True])
def test_mixed_precision_follows_float32(request, dtype, masks):
    cfg = request.getfixturevalue("tiny_mask_cfg" if masks else "tiny_cfg")
    totals = []
    for amp_dtype in (None, dtype):
        torch.manual_seed(0)
        model = build_model(cfg)
        step = TrainingStep(model, build_optimizer(cfg, model), amp_dtype=amp_dtype)
        totals.append([])
        for iteration in range(20):
            batch = [
                make_input(64, 48 + 16 * i, i + 1, seed=(iteration + i) % 8, masks=masks)
                for i in range(3)
            ]
            totals[-1].append(sum(step.compute_gradients(batch).values()).item())
            step.update()
    full, mixed = totals
    assert full[-1] < full[0]
    assert mixed != full
    assert sum(mixed) == pytest.approx(sum(full), rel=0.01)
    assert mixed == pytest.approx(full, rel=0.05)


class MeanModel(nn.Module):
    """Its loss is a mean over images, as of most models."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        return {"loss": (self.weight * torch.stack([x["value"] for x in batch])).mean()}


def test_other_models_are_averaged_over_images():
    batch = [{"value": torch.tensor(float(x))} for x in (1, 2, 6)]
    losses, gradients, _ = take_step(
        model := MeanModel(), torch.optim.SGD(model.parameters(), lr=1.0), batch, num_parts=2
    )
    assert losses["loss"] == 6
    assert gradients["weight"] == 3


def test_no_parts(tiny_cfg):
    tiny_cfg.SOLVER.ACCUMULATE_STEPS = 0
    model = build_model(tiny_cfg)
    with pytest.raises(UserError, match="SOLVER.ACCUMULATE_STEPS is 0"):
        TrainingStep.from_config(tiny_cfg, model, build_optimizer(tiny_cfg, model))
