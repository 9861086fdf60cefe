import detectron2.solver
import pytest
import torch
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model
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


@pytest.mark.parametrize(
    "build", [detectron2.solver.build_optimizer, DefaultTrainer.build_optimizer]
)
def test_detectron2s_own_solver_gives_detr_its_optimizer(tiny_cfg, build):
    """AdamW, two learning rates and full-model clipping, in its scripts and trainers."""
    tiny_cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    model = build_model(tiny_cfg)
    optimizer = build(tiny_cfg, model)
    assert type(optimizer) is torch.optim.AdamW
    rates = {group["lr"]: len(group["params"]) for group in optimizer.param_groups}
    assert rates[tiny_cfg.SOLVER.BASE_LR / 2] == len(list(model.backbone.parameters()))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    norm = torch.stack([parameter.grad.norm() for parameter in model.parameters()]).norm()
    assert norm.item() == pytest.approx(tiny_cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE, rel=1e-3)


def test_a_distributed_models_backbone_has_its_own_rate(tiny_cfg):
    """Detectron2's plain training script wraps the model before it asks for an optimizer."""
    tiny_cfg.SOLVER.BACKBONE_MULTIPLIER = 0.5
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(build_model(tiny_cfg))
        optimizer = detectron2.solver.build_optimizer(tiny_cfg, model)
    finally:
        torch.distributed.destroy_process_group()
    assert len(optimizer.param_groups) == 2


def test_other_models_keep_detectron2s_optimizer(tiny_cfg):
    """Clipping is what the config says, also as a RetinaNet on top of DETR's config has it."""
    tiny_cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    parameters, _ = two_parameters([3.0, 4.0])
    model = nn.ParameterList(parameters)
    tiny_cfg.SOLVER.BASE_LR, tiny_cfg.SOLVER.WEIGHT_DECAY = 1.0, 0.0
    optimizer = detectron2.solver.build_optimizer(tiny_cfg, model)
    assert isinstance(optimizer, torch.optim.SGD)
    optimizer.step()
    assert [x.item() for x in parameters] == pytest.approx([-0.06, -0.08], rel=1e-3)


def test_other_trainers_say_what_they_do_not_read(tiny_cfg, caplog):
    tiny_cfg.SOLVER.ACCUMULATE_STEPS = 2
    detectron2.solver.build_optimizer(tiny_cfg, build_model(tiny_cfg))
    assert "SOLVER.ACCUMULATE_STEPS is not read by this trainer" in caplog.text


def test_multipliers_by_a_part_of_the_name(tiny_cfg):
    tiny_cfg.SOLVER.LR_MULTIPLIERS = (("query_embed", 0.5), ("backbone.stem", 0.0))
    model = build_model(tiny_cfg)
    optimizer = build_optimizer(tiny_cfg, model)
    rates = {id(x): group["lr"] for group in optimizer.param_groups for x in group["params"]}
    lr = tiny_cfg.SOLVER.BASE_LR
    assert rates[id(model.transformer.decoder.query_embed.weight)] == 0.5 * lr
    assert rates[id(model.backbone.stem.conv.weight)] == 0
    assert rates[id(model.input_proj.weight)] == lr


def test_multiplier_of_a_name_that_is_none(tiny_cfg):
    tiny_cfg.SOLVER.LR_MULTIPLIERS = (("sampling_offset", 0.1),)
    with pytest.raises(UserError, match="LR_MULTIPLIERS names 'sampling_offset', but no parameter"):
        build_optimizer(tiny_cfg, build_model(tiny_cfg))
