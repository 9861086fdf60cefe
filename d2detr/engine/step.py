from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from d2detr.errors import UserError
from d2detr.modeling import DETR

_AMP_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class TrainingStep:
    """One update of a model: forward, backward and the optimizer's step.

    Mixed precision works on CPU and GPU. A batch may be worked off in parts, which need less
    memory. The update is still that of the whole batch: DETR's losses are divided by all of its
    objects, and gradients are clipped once. Losses of other models are averaged over the images.

    Args:
        model: any Detectron2 model, also a distributed one.
        optimizer: of its parameters.
        amp_dtype: precision of autocast; None trains in float32.
        num_parts: parts of a batch.
        exact_global_batch: with several processes, train DETR on the losses that one process would
            have for the images of all; see ``SOLVER.EXACT_GLOBAL_BATCH``.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        amp_dtype: torch.dtype | None = None,
        num_parts: int = 1,
        exact_global_batch: bool = False,
    ):
        self.model = model
        self.optimizer = optimizer
        self.num_parts = num_parts
        self.exact_global_batch = exact_global_batch
        device = next(model.parameters()).device.type
        self._autocast = torch.autocast(device, dtype=amp_dtype, enabled=amp_dtype is not None)
        # From torch's 65536 the scale would have to halve a few times, and skip an update each.
        self.grad_scaler = torch.amp.GradScaler(
            device, init_scale=256.0, enabled=amp_dtype == torch.float16
        )

    @classmethod
    def from_config(
        cls, cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
    ) -> "TrainingStep":
        """Build from ``SOLVER``: ``AMP``, ``ACCUMULATE_STEPS`` and ``EXACT_GLOBAL_BATCH``.

        Raises:
            UserError: one of them makes no sense.
        """
        amp, num_parts = cfg.SOLVER.AMP, cfg.SOLVER.ACCUMULATE_STEPS
        on_cpu = torch.device(cfg.MODEL.DEVICE).type == "cpu"
        name = amp.DTYPE or ("bfloat16" if on_cpu else "float16")
        if name not in _AMP_DTYPES:
            raise UserError(f"SOLVER.AMP.DTYPE is {name!r}; choose from {sorted(_AMP_DTYPES)}.")
        if num_parts < 1:
            raise UserError(f"SOLVER.ACCUMULATE_STEPS is {num_parts}, but must be at least 1.")
        dtype = _AMP_DTYPES[name] if amp.ENABLED else None
        return cls(
            model,
            optimizer,
            amp_dtype=dtype,
            num_parts=num_parts,
            exact_global_batch=cfg.SOLVER.EXACT_GLOBAL_BATCH,
        )

    def compute_gradients(self, batch: list[dict[str, Any]]) -> dict[str, Tensor]:
        """Replace the gradients by those of a batch.

        Args:
            batch: the model's inputs.

        Returns:
            The batch's losses, detached.
        """
        self.optimizer.zero_grad()
        wrapper = self.model if isinstance(self.model, DistributedDataParallel) else None
        model = self.model if wrapper is None else wrapper.module
        total: dict[str, Tensor] = {}
        options: dict[str, Any] = {}
        if isinstance(model, DETR):
            # Its losses of a part are divided by the objects of the whole batch.
            options["divisor"] = model.loss_divisor(batch, self.exact_global_batch)
        parts = _split(batch, self.num_parts)
        for number, part in enumerate(parts, start=1):
            share = 1.0 if isinstance(model, DETR) else len(part) / len(batch)
            is_last = number == len(parts)  # when gradients are gathered
            with nullcontext() if wrapper is None or is_last else wrapper.no_sync():
                losses = self._backward(part, share, options)
            total = {name: total.get(name, 0) + loss for name, loss in losses.items()}
        return total

    def update(self) -> None:
        """Let the optimizer make its step, which clips first if the config says so."""
        self.grad_scaler.unscale_(self.optimizer)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _backward(
        self, part: list[dict[str, Any]], share: float, options: dict[str, Any]
    ) -> dict[str, Tensor]:
        with self._autocast:
            losses = self.model(part, **options)
        self.grad_scaler.scale(share * sum(losses.values())).backward()
        return {name: share * loss.detach() for name, loss in losses.items()}


def _split(batch: list[dict[str, Any]], num_parts: int) -> list[list[dict[str, Any]]]:
    bounds = np.linspace(0, len(batch), min(num_parts, len(batch)) + 1).astype(int).tolist()
    return [batch[start:stop] for start, stop in zip(bounds[:-1], bounds[1:], strict=True)]
