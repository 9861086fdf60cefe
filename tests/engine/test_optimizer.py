import pytest
import torch
from torch import nn

from d2detr.config import load_config
from d2detr.engine import build_optimizer, clip_full_model_gradients, maybe_add_gradient_clipping
from d2detr.errors import UserError


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Linear(2, 2)
        self.norm = nn.LayerNorm(2)
        self.backbone.bias.requires_grad_(False)


def make_cfg(*opts):
    return load_config("", ["SOLVER.BASE_LR", "0.5", "SOLVER.WEIGHT_DECAY", "0.25", *opts])


def test_backbone_has_its_own_rate_and_everything_decays():
    model = Model()
    optimizer = build_optimizer(make_cfg("SOLVER.BACKBONE_MULTIPLIER", "0.1"), model)
    assert type(optimizer) is torch.optim.AdamW
    by_lr = {group["lr"]: group for group in optimizer.param_groups}
    assert by_lr[0.05]["params"] == [model.backbone.weight]
    assert by_lr[0.5]["params"] == [model.norm.weight, model.norm.bias]
    assert all(group["weight_decay"] == 0.25 for group in optimizer.param_groups)


def test_sgd_and_unknown_optimizers():
    sgd = build_optimizer(make_cfg("SOLVER.OPTIMIZER", "SGD", "SOLVER.MOMENTUM", "0.7"), Model())
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.7
    with pytest.raises(UserError, match="'LION'; choose ADAMW or SGD"):
        build_optimizer(make_cfg("SOLVER.OPTIMIZER", "LION"), Model())


def test_nothing_to_train():
    model = Model()
    model.requires_grad_(False)
    with pytest.raises(UserError, match="nothing to train"):
        build_optimizer(make_cfg(), model)


def two_parameters(gradient):
    parameters = [nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))]
    for parameter, value in zip(parameters, gradient, strict=True):
        parameter.grad = torch.tensor([value])
    groups = [{"params": [parameter]} for parameter in parameters]
    return parameters, torch.optim.SGD(groups, lr=1.0)


def test_full_model_clipping_keeps_the_direction():
    parameters, optimizer = two_parameters([3.0, 4.0])
    clip_full_model_gradients(optimizer, max_norm=0.5)
    optimizer.step()
    assert [x.item() for x in parameters] == pytest.approx([-0.3, -0.4])


def test_full_model_clipping_leaves_small_gradients():
    parameters, optimizer = two_parameters([0.3, 0.4])
    clip_full_model_gradients(optimizer, max_norm=0.6)
    optimizer.step()
    assert [x.item() for x in parameters] == pytest.approx([-0.3, -0.4])


@pytest.mark.parametrize(
    ("clip_type", "expected"),
    [("full_model", [-0.3, -0.4]), ("norm", [-0.5, -0.5]), ("value", [-0.5, -0.5])],
)
def test_every_clip_type(clip_type, expected):
    parameters, optimizer = two_parameters([3.0, 4.0])
    cfg = make_cfg("SOLVER.CLIP_GRADIENTS.ENABLED", "True")
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = clip_type
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 0.5
    assert maybe_add_gradient_clipping(cfg, optimizer) is optimizer
    optimizer.step()
    assert [x.item() for x in parameters] == pytest.approx(expected, rel=1e-4)
