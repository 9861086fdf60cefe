from collections.abc import Iterator

import torch
from detectron2.config import CfgNode
from detectron2.solver.build import maybe_add_gradient_clipping as add_detectron2_clipping
from torch import nn

from d2detr.errors import UserError

BACKBONE_PREFIX = "backbone."


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """Build AdamW or SGD with a learning rate of its own for the backbone.

    As in the original, every parameter decays by ``SOLVER.WEIGHT_DECAY``, normalisation and biases
    included; ``WEIGHT_DECAY_NORM``, ``WEIGHT_DECAY_BIAS`` and ``BIAS_LR_FACTOR`` are not read.

    Args:
        cfg: ``SOLVER`` is read.
        model: parameters whose names start with ``backbone.`` learn with
            ``BASE_LR * BACKBONE_MULTIPLIER``; frozen ones are left out.

    Raises:
        UserError: the optimizer is unknown or nothing is left to train.
    """
    solver = cfg.SOLVER
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            factor = solver.BACKBONE_MULTIPLIER if name.startswith(BACKBONE_PREFIX) else 1.0
            groups.setdefault(solver.BASE_LR * factor, []).append(parameter)
    if not groups:
        raise UserError("Every parameter is frozen, so there is nothing to train.")
    params = [{"params": parameters, "lr": lr} for lr, parameters in groups.items()]
    shared = {"lr": solver.BASE_LR, "weight_decay": solver.WEIGHT_DECAY}
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


def maybe_add_gradient_clipping(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.Optimizer:
    """Make an optimizer clip gradients as ``SOLVER.CLIP_GRADIENTS`` says.

    ``CLIP_TYPE`` may be Detectron2's "value" or "norm", which clip parameter by parameter, or
    "full_model", which clips the norm of all gradients together.

    Returns:
        The same optimizer.
    """
    clipping = cfg.SOLVER.CLIP_GRADIENTS
    if clipping.ENABLED and clipping.CLIP_TYPE == "full_model":
        clip_full_model_gradients(optimizer, clipping.CLIP_VALUE, clipping.NORM_TYPE)
        return optimizer
    return add_detectron2_clipping(cfg, optimizer)


def clip_full_model_gradients(
    optimizer: torch.optim.Optimizer, max_norm: float, norm_type: float = 2.0
) -> None:
    """Clip the norm of all gradients together before every step of ``optimizer``.

    It works in any trainer, and after the unscaling of a GradScaler.

    Args:
        optimizer: any optimizer; changed in place.
        max_norm: the largest norm that stays as it is.
        norm_type: order of the norm.
    """

    def parameters() -> Iterator[nn.Parameter]:
        for group in optimizer.param_groups:
            yield from group["params"]

    optimizer.register_step_pre_hook(
        lambda *_: torch.nn.utils.clip_grad_norm_(parameters(), max_norm, norm_type) and None
    )
