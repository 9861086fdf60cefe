"""What a run is about, decided once for all of its processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from detectron2.config import CfgNode
from detectron2.utils import comm

from d2detr.checkpoint import check_frozen_weights, fetch_weights
from d2detr.classes import Classes, resolve_classes
from d2detr.config import check_training_settings
from d2detr.datasets.catalog import require_registered
from d2detr.doctor import check_datasets
from d2detr.errors import UserError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Run:
    """What a training or an evaluation is about; the same in every process.

    Attributes:
        classes: of the model.
        weights: the file on this machine that ``MODEL.WEIGHTS`` stands for, or "".
    """

    classes: Classes
    weights: str


def prepare(cfg: CfgNode, *, is_train: bool = True, with_weights: bool = True) -> Run:
    """Decide what a run is about, before anything is built; every process must call this.

    Datasets are registered and checked, classes resolved, and weights fetched. Where that writes
    files, the first process of each machine does it before the others.

    Args:
        cfg: a config with DETR's keys.
        is_train: whether the run trains, or evaluates alone.
        with_weights: whether it starts from ``MODEL.WEIGHTS``, and not from its own checkpoint.

    Raises:
        UserError: the run cannot work; raised in every process, whichever found out.
    """
    names = dict.fromkeys([*(cfg.DATASETS.TRAIN if is_train else ()), *cfg.DATASETS.TEST])

    def fetch() -> str:
        weights = fetch_weights(cfg.MODEL.WEIGHTS) if with_weights else ""
        for name in names:
            require_registered(name)  # which converts it if it must be
        return weights

    if is_train:
        check_training_settings(cfg)
        check_frozen_weights(cfg)
    weights = on_first_processes(fetch)
    on_main_process(lambda: check_datasets(cfg, is_train))  # before Detectron2 reads them
    return Run(_agree_on_classes(cfg), weights)


def on_main_process(action: Callable[[], Result]) -> Result | None:
    """Do something in the main process alone; every process must call this.

    Returns:
        The result in the main process, None in the others.

    Raises:
        UserError: in every process, if ``action`` raises it.
    """
    return _together(action, comm.is_main_process())


def on_first_processes(action: Callable[[], Result]) -> Result:
    """Do something in the first process of each machine, then in the others, which find its files.

    Raises:
        UserError: in every process, if ``action`` raises it in any.
    """
    is_first = comm.get_local_rank() == 0
    early = _together(action, is_first)
    late = _together(action, not is_first)
    return cast(Result, early if is_first else late)  # of the time when it acted


def _together(action: Callable[[], Result], acts: bool) -> Result | None:
    result, problem = None, None
    if acts:
        try:
            result = action()
        except UserError as error:
            problem = error
    # A process that is told nothing would wait for the others in vain.
    messages = comm.all_gather(None if problem is None else str(problem))
    message = next((found for found in messages if found is not None), None)
    if message is not None:
        raise problem or UserError(message)
    return result


def _agree_on_classes(cfg: CfgNode) -> Classes:
    classes = resolve_classes(cfg)
    for rank, other in enumerate(comm.all_gather(classes)):
        if other != classes:
            raise UserError(
                f"Process {rank} finds {other}, but process {comm.get_rank()} finds {classes}: "
                "the machines have different files of the datasets. Give them the same."
            )
    return classes
