"""The losses of training, on images that are not trained on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from d2detr.data import unchanged_random_numbers
from d2detr.modeling import DETR

logger = logging.getLogger(__name__)

Batch = list[dict[str, Any]]


class ValidationLosses(HookBase):
    """Logs the losses of the model on datasets, as ``DATASET/total_loss`` and so on.

    What the model itself logs in training is logged like its losses: ``DATASET/class_error`` and
    ``DATASET/cardinality_error`` of DETR. All are means over images. Nothing is dropped out and
    normalisation is that of inference; the model and all random numbers are left as they were. It
    works in any trainer of Detectron2, with any model that returns losses in training. Every
    process must have this hook, before the one that writes.

    Args:
        period: iterations from one computation to the next; the last iteration is one, too.
        model: the model that is trained.
        dataset_names: where to compute losses.
        build_loader: makes the batches of a dataset, with their truth, for this process.
    """

    def __init__(
        self,
        period: int,
        model: nn.Module,
        dataset_names: Sequence[str],
        build_loader: Callable[[str], Iterable[Batch]],
    ):
        self._period = period
        self._model = model.module if isinstance(model, DistributedDataParallel) else model
        self._dataset_names = dataset_names
        self._build_loader = build_loader

    def after_step(self) -> None:
        done = self.trainer.iter + 1
        if done % self._period and done != self.trainer.max_iter:
            return
        for name in self._dataset_names:
            means = self._compute(name)
            if means and comm.is_main_process():
                named = {f"{name}/{key}": value for key, value in means.items()}
                self.trainer.storage.put_scalars(**named, smoothing_hint=False)
                values = "  ".join(f"{key}: {value:.4g}" for key, value in means.items())
                logger.info(f"Validation on {name}: {values}")

    def _compute(self, dataset_name: str) -> dict[str, float]:
        sums: defaultdict[str, float] = defaultdict(float)
        num_images = 0
        with unchanged_random_numbers(), torch.no_grad(), _computing_losses(self._model):
            for batch in self._build_loader(dataset_name):
                num_images += len(batch)
                for name, value in self._compute_batch(batch).items():
                    sums[name] += value * len(batch)
        gathered = comm.all_gather((dict(sums), num_images))
        total = max(1, sum(count for _, count in gathered))
        names = dict.fromkeys(name for part, _ in gathered for name in part)
        return {name: sum(part.get(name, 0.0) for part, _ in gathered) / total for name in names}

    def _compute_batch(self, batch: Batch) -> dict[str, float]:
        options = {}
        if isinstance(self._model, DETR):  # processes do not have equally many batches to agree on
            options["divisor"] = self._model.own_divisor(batch)
        with EventStorage() as storage:  # instead of the trainer's
            # Not by a call: hooks of the model are for the batches of training.
            losses = self._model.forward(batch, **options)
        values = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
        logged = {name: value for name, (value, _) in storage.latest().items()}
        return {"total_loss": sum(values), **dict(zip(losses, values, strict=True)), **logged}


@contextmanager
def _computing_losses(model: nn.Module) -> Iterator[None]:
    """Let a model compute losses without dropout or new statistics, then be as it was."""
    attributes = [(module, dict(vars(module))) for module in model.modules()]
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for module in model.modules():  # layers behave as in inference, what they are made into trains
        module.training = any(module.children()) and not hasattr(module, "dropout")
    try:
        yield
    finally:
        for module, values in attributes:
            vars(module).update(values)
        for name, buffer in model.named_buffers():
            buffer.copy_(buffers[name])
