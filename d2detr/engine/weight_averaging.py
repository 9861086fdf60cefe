"""Averages of the weights over a training, which often detect better than the last ones."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from d2detr.errors import UserError

Tensors = tuple[Tensor, ...] | list[Tensor]


class WeightAveraging(HookBase):
    """Keeps an exponential moving average of a model's weights, in any trainer of Detectron2.

    Whatever is to see the average is given ``averaged``: evaluation, and the checkpointer, whose
    ``model`` are then the averaged weights. The hook's own state holds the weights to train on
    with. It belongs before the hooks that evaluate and save.

    Attributes:
        averaged: a copy of the model with the averaged weights.

    Args:
        model: that is trained, without the wrapper of distributed training.
        decay: share of the average that every step keeps, in (0, 1). The first steps keep less, so
            that random initial weights are soon forgotten.

    Raises:
        UserError: the decay makes no sense.
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise UserError(
                f"SOLVER.EMA_DECAY is {decay}. It must be in [0, 1), such as 0.999; 0 averages no "
                "weights."
            )

        def average(averages: Tensors, weights: Tensors, _: Tensor | int) -> None:
            steps = int(self._average.n_averaged)  # not what is given, which is on the device
            kept = min(decay, (1 + steps) / (10 + steps))
            torch._foreach_lerp_(averages, weights, 1 - kept)

        self._model = model
        self._average = AveragedModel(model, multi_avg_fn=torch.no_grad()(average))
        self._average.requires_grad_(False)

    @property
    def averaged(self) -> nn.Module:
        return self._average.module

    def after_step(self) -> None:
        self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._model.state_dict(), "steps": self._average.n_averaged}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose averaged weights the model has been given already."""
        self.averaged.load_state_dict(self._model.state_dict())
        self._model.load_state_dict(state_dict["weights"])
        self._average.n_averaged.copy_(state_dict["steps"])
