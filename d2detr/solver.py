"""DETR's optimizer and clipping, also where Detectron2's own trainers and scripts ask for them."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, overload

import torch
from detectron2.config import CfgNode
from detectron2.solver import build as detectron2_build
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2detr.errors import UserError
from d2detr.modeling import DETR

BACKBONE_PREFIX = "backbone."

logger = logging.getLogger(__name__)
_stock_build_optimizer = detectron2_build.build_optimizer
_stock_add_clipping = detectron2_build.maybe_add_gradient_clipping


def extend_detectron2_solver() -> None:
    """Make Detectron2's own solver read DETR's keys, whoever imported it before.

    ``build_optimizer`` then gives DETR its own optimizer and other models theirs, and
    ``maybe_add_gradient_clipping`` knows ``CLIP_TYPE: full_model``. Every module that holds one of
    them by its name is told: ``DefaultTrainer`` and scripts take them when they are imported.
    """
    replacements: dict[str, tuple[Callable, Callable]] = {
        "build_optimizer": (_stock_build_optimizer, _build_optimizer_for_any_model),
        "maybe_add_gradient_clipping": (_stock_add_clipping, maybe_add_gradient_clipping),
    }
    for module in list(sys.modules.values()):
        names = getattr(module, "__dict__", {})
        for name, (stock, ours) in replacements.items():
            if names.get(name) is stock:
                setattr(module, name, ours)


def _build_optimizer_for_any_model(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that ``SOLVER`` describes: for DETR its own, else Detectron2's."""
    if not isinstance(_without_wrapper(model), DETR) or "OPTIMIZER" not in cfg.SOLVER:
        return _stock_build_optimizer(cfg, model)
    if cfg.SOLVER.ACCUMULATE_STEPS != 1:
        logger.warning(
            "SOLVER.ACCUMULATE_STEPS is not read by this trainer, which takes every batch as a "
            "whole: d2detr.engine.Trainer reads it."
        )
    return build_optimizer(cfg, model)


def _without_wrapper(model: nn.Module) -> nn.Module:
    return model.module if isinstance(model, DistributedDataParallel) else model


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW or SGD with a learning rate of its own for the backbone.

    As in the original, every parameter decays by ``SOLVER.WEIGHT_DECAY``, normalisation and biases
    included; ``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS`` and ``BIAS_LR_FACTOR`` are not read.

    Args:
        cfg: ``SOLVER`` is read.
        model: parameters learn with ``BASE_LR`` times the first of ``LR_MULTIPLIERS`` that fits
            their name; otherwise those whose names start with ``backbone.`` with
            ``BASE_LR * BACKBONE_MULTIPLIER``. Frozen ones are left out.

    Raises:
        UserError: the optimizer is unknown, nothing is left to train, or a multiplier fits no name.
    """
    solver = cfg.SOLVER
    names = [name for name, _ in model.named_parameters()]
    for part, _ in solver.LR_MULTIPLIERS:
        if not any(part in name for name in names):
            raise UserError(f"SOLVER.LR_MULTIPLIERS names {part!r}, but no parameter is called so.")
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in _without_wrapper(model).named_parameters():
        if parameter.requires_grad:
            factor = _multiplier(name, solver)
            groups.setdefault(solver.BASE_LR * factor, []).append(parameter)
    if not groups:
        raise UserError("Every parameter is frozen, so there is nothing to train.")
    params: list[dict[str, Any]] = [
        {"params": parameters, "lr": lr} for lr, parameters in groups.items()
    ]
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
    optimizer: torch.optim.Optimizer
    if solver.OPTIMIZER == "ADAMW":
        # On the CPU, AdamW would go from parameter to parameter. On a GPU it is fast as it is, and
        # a fused step would hand unscaled gradients to a GradScaler only after they are clipped.
        on_cpu = all(x.device.type == "cpu" for group in params for x in group["params"])
        optimizer = torch.optim.AdamW(params, fused=on_cpu, **shared)
    elif solver.OPTIMIZER == "SGD":
        optimizer = torch.optim.SGD(
            params, momentum=solver.MOMENTUM, nesterov=solver.NESTEROV, **shared
        )
    else:
        raise UserError(f"SOLVER.OPTIMIZER is {solver.OPTIMIZER!r}; choose ADAMW or SGD.")
    return maybe_add_gradient_clipping(cfg, optimizer)


def _multiplier(name: str, solver: CfgNode) -> float:
    usual = solver.BACKBONE_MULTIPLIER if name.startswith(BACKBONE_PREFIX) else 1.0
    return next((factor for part, factor in solver.LR_MULTIPLIERS if part in name), usual)


@overload
def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.Optimizer: ...


@overload
def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: type[torch.optim.Optimizer]
) -> type[torch.optim.Optimizer]: ...


def maybe_add_gradient_clipping(cfg: CfgNode, optimizer: Any) -> Any:
    """Make an optimizer clip gradients as ``SOLVER.CLIP_GRADIENTS`` says.

    ``CLIP_TYPE`` may be Detectron2's "value" or "norm", which clip parameter by parameter, or
    "full_model", which clips the norm of all gradients together.

    Args:
        cfg: ``SOLVER.CLIP_GRADIENTS`` is read.
        optimizer: an optimizer, or a class of optimizers as Detectron2 0.6 hands over.

    Returns:
        The same optimizer; of a class one that clips.
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if not clipping.ENABLED or clipping.CLIP_TYPE != "full_model":
        return _stock_add_clipping(cfg, optimizer)
    if isinstance(optimizer, torch.optim.Optimizer):
        clip_full_model_gradients(optimizer, clipping.CLIP_VALUE, clipping.NORM_TYPE)
        return optimizer

    class ClippingOptimizer(optimizer):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            clip_full_model_gradients(self, clipping.CLIP_VALUE, clipping.NORM_TYPE)

    ClippingOptimizer.__name__ = f"{optimizer.__name__}WithGradientClip"  # Detectron2's name
    return ClippingOptimizer


def clip_full_model_gradients(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> None:
    """Clip the norm of all gradients together before every step of ``optimizer``.

    It works in any trainer, and after the unscaling of a GradScaler. The norm before clipping is
    then in ``optimizer.gradient_norm``, a tensor on the device of the gradients.

    Args:
        optimizer: any optimizer; changed in place.
        max_norm: the largest norm that stays as it is.
        norm_type: order of the norm.
    """

    def parameters() -> Iterator[nn.Parameter]:
        for group in optimizer.param_groups:
            yield from group["params"]

    def clip(*_: object) -> None:
        optimizer.gradient_norm = torch.nn.utils.clip_grad_norm_(parameters(), max_norm, norm_type)

    optimizer.register_step_pre_hook(clip)
