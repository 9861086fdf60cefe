"""Batches for training, the same however often a run is interrupted, and for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Sized
from itertools import count, islice
from typing import Any, cast

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.utils import comm
from detectron2.utils.serialize import PicklableWrapper
from torch.utils.data import DataLoader, Dataset, Sampler

from d2detr.data.randomness import seed_random_numbers
from d2detr.errors import UserError
from d2detr.progress import progress

_MOST_TRIES = 100

Place = tuple[int, int]


class ResumableTrainLoader:
    """Detectron2's endless training loader, able to go on where an earlier run stopped.

    The order of the images follows from ``seed``, and the random numbers of an image's augmentation
    from ``seed`` and its place in that order. So batches depend neither on the number of workers
    nor on where a run was interrupted. The loader is built when the first batch is asked for, so
    that ``seed`` and ``start_iter`` may be set after a checkpoint is loaded.

    Args:
        cfg: ``DATASETS``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH`` and ``SEED`` are read.
        mapper: turns dataset dicts into training data.

    Attributes:
        seed: the same on all processes; ``SEED``, or a random one if that is negative.
        start_iter: number of batches to pass over.
    """

    def __init__(self, cfg: CfgNode, mapper: Callable[[dict], dict | None]):
        self._cfg = cfg
        self._mapper = mapper
        self.seed = cfg.SEED if cfg.SEED >= 0 else comm.shared_random_seed()
        self.start_iter = 0

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        arguments = self._detectron2_arguments()
        records, batch_size = arguments["dataset"], arguments["total_batch_size"]
        num_processes = comm.get_world_size()
        if batch_size < 1 or batch_size % num_processes:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {batch_size}; it must be a multiple of the number of "
                f"processes, {num_processes}."
            )
        batches = _Batches(
            arguments["sampler"],
            records if arguments["aspect_ratio_grouping"] else None,
            batch_size=batch_size // num_processes,
            start=self.start_iter,
        )
        if isinstance(records, list):
            records = DatasetFromList(records, copy=False)
        yield from DataLoader(
            _MappedRecords(records, self._mapper, self.seed),
            batch_sampler=batches,
            num_workers=arguments["num_workers"],
            collate_fn=_as_list,
        )

    def _detectron2_arguments(self) -> dict[str, Any]:
        # Depending on sampler and version, Detectron2 draws the seed from NumPy or takes cfg.SEED.
        cfg = self._cfg.clone()
        cfg.defrost()
        cfg.SEED = self.seed
        state = np.random.get_state()
        np.random.seed(self.seed)
        arguments = build_detection_train_loader.from_config(cfg, mapper=self._mapper)
        np.random.set_state(state)
        return arguments


class _Batches(Sampler):
    """Endless batches of places: numbers in the order of all processes' images, and records.

    Args:
        sampler: endless indices of records.
        records: whose "width" and "height" decide which images come into a batch together; None
            takes the images as they come.
        batch_size: images of a batch.
        start: number of batches to pass over.
    """

    def __init__(
        self,
        sampler: Sampler,
        records: Sequence[dict[str, Any]] | None,
        *,
        batch_size: int,
        start: int,
    ):
        self._sampler = sampler
        self._batch_size = batch_size
        self._start = start
        self._is_wide = None
        if records is not None:
            self._is_wide = [x.get("width", 0) > x.get("height", 0) for x in records]

    def __iter__(self) -> Iterator[list[Place]]:
        return islice(self._all(), self._start, None)

    def _all(self) -> Iterator[list[Place]]:
        groups: dict[bool, list[Place]] = {True: [], False: []}
        for place in zip(
            count(comm.get_rank(), comm.get_world_size()), self._sampler, strict=False
        ):
            group = groups[self._is_wide is not None and self._is_wide[place[1]]]
            group.append(place)
            if len(group) == self._batch_size:
                yield group[:]
                group.clear()


class _MappedRecords(Dataset):
    """Training data by place, with random numbers that follow from the place alone."""

    def __init__(self, records: Sequence[dict[str, Any]], mapper: Callable, seed: int):
        self._records = records
        self._mapper = PicklableWrapper(mapper)
        self._seed = seed

    def __getitem__(self, place: Place) -> dict[str, Any]:
        position, index = place
        seed_random_numbers(self._seed, position)
        for _ in range(_MOST_TRIES):
            data = self._mapper(self._records[index])
            if data is not None:
                return data
            index = np.random.randint(len(self._records))
        raise UserError(
            f"The mapper of the training data left out {_MOST_TRIES} images in a row by returning "
            "None. Correct the mapper, or the data that it does not accept."
        )


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch


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
    return _WatchedLoader(
        loader.dataset,
        batch_size=batch_size,
        sampler=loader.sampler,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
    )


class _WatchedLoader(DataLoader):
    """A loader that shows on a terminal how far it is; elsewhere Detectron2 logs it."""

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:  # type: ignore[override]
        with progress(len(cast(Sized, self.sampler)), "Evaluating", "images", logs=False) as bar:
            for batch in super().__iter__():
                yield batch
                bar.update(len(batch))
