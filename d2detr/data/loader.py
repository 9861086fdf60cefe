from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Sampler

from d2detr.errors import UserError


class ResumableTrainLoader:
    """Detectron2's endless training loader, able to go on where an earlier run stopped.

    The loader is built when the first batch is asked for, so that ``seed`` and ``start_iter`` may
    be set after a checkpoint is loaded. The few images that aspect-ratio grouping held back for
    later batches when the earlier run stopped are skipped.

    Args:
        cfg: ``DATASETS``, ``DATALOADER`` and ``SOLVER.IMS_PER_BATCH`` are read.
        mapper: turns dataset dicts into training data.

    Attributes:
        seed: decides the order of the images; the same on all workers.
        start_iter: number of batches to pass over.
    """

    def __init__(self, cfg: CfgNode, mapper: Callable[[dict], dict | None]):
        self._cfg = cfg
        self._mapper = mapper
        self.seed = comm.shared_random_seed()
        self.start_iter = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        state = np.random.get_state()
        np.random.seed(self.seed)  # Detectron2 draws the sampler's seed from NumPy
        arguments = build_detection_train_loader.from_config(self._cfg, mapper=self._mapper)
        np.random.set_state(state)
        batch_size = arguments["total_batch_size"] // comm.get_world_size()
        arguments["sampler"] = _Skip(arguments["sampler"], self.start_iter * batch_size)
        yield from build_detection_train_loader(**arguments)


class _Skip(Sampler):
    """An endless sampler without its first ``count`` indices."""

    def __init__(self, sampler: Sampler, count: int):
        self._sampler = sampler
        self._count = count

    def __iter__(self) -> Iterator[int]:
        return islice(iter(self._sampler), self._count, None)


def in_batches(loader: DataLoader, batch_size: int) -> DataLoader:
    """Detectron2's test loader with another batch size, which 0.6 fixes at one image.

    Args:
        loader: whose dataset, sampler, workers and collation are kept.
        batch_size: images at a time; the last batch may have fewer.

    Raises:
        UserError: the size is not positive.
    """
    if batch_size < 1:
        raise UserError(f"TEST.IMS_PER_BATCH is {batch_size}; it must be at least 1.")
    return DataLoader(
        loader.dataset,
        batch_size=batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )
