"""Averages of the weights over a training, which often detect better than the last ones."""

from __future__ import annotations

import copy
from typing import Any

import torch
from detectron2.engine import HookBase
from torch import Tensor, nn

from d2detr.errors import UserError


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

        self._model = model
        self._averaged = copy.deepcopy(model).requires_grad_(False)
        self._decay = decay
        self._steps = 0
        # Looking for them in every step would take longer than to average a small model. Modules
        # may replace their buffers, but not the parameters, which the optimizer holds, too.
        self._weights: list[Tensor] = [*model.parameters()]
        self._averages: list[Tensor] = [*self._averaged.parameters()]
        self._buffers = [
            (average._buffers, module._buffers)
            for average, module in zip(self._averaged.modules(), model.modules(), strict=True)
            if module._buffers
        ]

    @property
    def averaged(self) -> nn.Module:
        return self._averaged

    @torch.no_grad()
    def after_step(self) -> None:
        kept = min(self._decay, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        torch._foreach_lerp_(self._averages, self._weights, 1 - kept)
        for averages, buffers in self._buffers:
            for name, buffer in buffers.items():
                average = averages[name]
                if buffer is not None and average is not None:
                    average.copy_(buffer)
        self._steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self._model.state_dict(), "steps": torch.tensor(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint, whose averaged weights the model has been given already."""
        self.averaged.load_state_dict(self._model.state_dict())
        self._model.load_state_dict(state_dict["weights"])
        self._steps = int(state_dict["steps"])
