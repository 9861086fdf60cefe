"""What an iteration needs and does, beside its losses and its time."""

from __future__ import annotations

import resource
import sys

import torch
from detectron2.engine import HookBase
from torch import Tensor

_MEGABYTE = 2**20


class StepMeasures(HookBase):
    """Logs ``grad_norm`` and ``max_mem_mb``, in any trainer of Detectron2.

    ``grad_norm`` is the norm of all gradients before they are clipped, where they are clipped
    together (:func:`d2detr.solver.clip_full_model_gradients`). ``max_mem_mb`` is the most memory so
    far, in megabytes: on a GPU of the tensors, as in Detectron2's ``max_mem``, on a CPU of the
    whole process. Norms are copied from the device once a period. The hook belongs before the one
    that writes.

    Args:
        optimizer: of the training.
        period: iterations between what is written.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, period: int = 20):
        self._optimizer = optimizer
        self._period = period
        self._norms: list[Tensor] = []

    def before_train(self) -> None:
        self._handle = self._optimizer.register_step_post_hook(self._remember)

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period == 0 or done == self.trainer.max_iter:
            self._log()

    def after_train(self) -> None:
        self._handle.remove()

    def _remember(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        norm = getattr(optimizer, "gradient_norm", None)
        if norm is not None:
            self._norms.append(norm)

    def _log(self) -> None:
        storage = self.trainer.storage
        for norm in torch.stack(self._norms).tolist() if self._norms else ():
            storage.put_scalar("grad_norm", norm)
        self._norms.clear()
        storage.put_scalar("max_mem_mb", _most_memory() / _MEGABYTE, smoothing_hint=False)


def _most_memory() -> int:
    """Bytes."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
