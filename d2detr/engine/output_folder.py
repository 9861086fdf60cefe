"""Whose an output folder is: a run never overwrites another one's."""

from __future__ import annotations

import logging
import os
import shutil
from itertools import count
from pathlib import Path

from detectron2.engine import HookBase
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from d2detr.checkpoint.saving import (
    BEST_MODEL,
    FINAL_MODEL,
    PERIODIC_MODELS,
    checkpoints_of_run,
)
from d2detr.errors import UserError
from d2detr.files import make_folder

# What a training leaves behind; nothing else is ever moved or removed.
_CHECKPOINTS = ("last_checkpoint", PERIODIC_MODELS, f"{FINAL_MODEL}.pth", BEST_MODEL)
_RUN_FILES = (
    *_CHECKPOINTS,
    "best.json",
    "metrics.json",
    "results.json",
    "events.out.tfevents.*",
    "wandb",
    "config.yaml",
    "classes.json",
    "recipe.json",
    "report.html",
    "log.txt*",
    "inference",
    "predictions",
)
_PROOFS = (*_CHECKPOINTS, "metrics.json", "results.json")
# Where a run waits while the one that is to replace it proves that it can train.
_REPLACED = ".replaced-run"
_REMOVED = ".removed-run"

logger = logging.getLogger(__name__)


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds what a training has done, be it a checkpoint or a line of metrics."""
    return any(path.stat().st_size > 0 for path in _find(Path(folder), _PROOFS))


def holds_checkpoint(folder: str) -> bool:
    """Whether a folder, or a place that Detectron2's PathManager knows, has a run to resume."""
    if "://" in folder:
        return PathManager.exists(os.path.join(folder, "last_checkpoint"))
    return bool(checkpoints_of_run(Path(folder)))


def claim_output(folder: str | Path, resume: bool = False, overwrite: bool = False) -> None:
    """Make sure that a run may write to a folder; it is made if it does not exist.

    Args:
        folder: the output folder.
        resume: go on with the run that it holds.
        overwrite: set that run aside, until :func:`remove_replaced` removes its files or
            :func:`restore_replaced` puts them back. Other files stay.

    Raises:
        UserError: the folder holds a run and neither is asked for, or cannot be written.
    """
    folder = make_folder(folder)
    restore_replaced(folder)  # of a start that was killed
    if resume or not holds_run(folder):
        return
    if not overwrite:
        raise UserError(
            f"{folder} holds another run. Go on with it by --resume, replace it by --overwrite, "
            "or choose another folder."
        )
    _move(_find(folder, _RUN_FILES), folder / _REPLACED)


def restore_replaced(folder: str | Path) -> None:
    """Put back the run that was to be replaced; what the new one has written goes."""
    folder = Path(folder)
    shutil.rmtree(folder / _REMOVED, ignore_errors=True)
    if (folder / _REPLACED).is_dir():
        for path in _find(folder, _RUN_FILES):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        _move(list((folder / _REPLACED).iterdir()), folder)
        (folder / _REPLACED).rmdir()


def remove_replaced(folder: str | Path) -> None:
    """Remove the run that has been replaced."""
    folder = Path(folder)
    if (folder / _REPLACED).is_dir():
        logger.warning(f"The new run can train: removing the one that was in {folder}.")
        os.replace(folder / _REPLACED, folder / _REMOVED)
        shutil.rmtree(folder / _REMOVED)


class RemoveReplacedRun(HookBase):
    """Removes the run that was set aside, after the first iteration of its successor."""

    def after_step(self) -> None:
        if self.trainer.iter == self.trainer.start_iter and comm.is_main_process():
            remove_replaced(self.trainer.cfg.OUTPUT_DIR)


def set_run_aside(folder: str | Path) -> Path | None:
    """Move a run that has checkpoints to ``previous-N`` in its folder; returns where it is then."""
    folder = Path(folder)
    if not _find(folder, _CHECKPOINTS):
        return None
    places = (folder / f"previous-{number}" for number in count(1))
    place = next(place for place in places if not place.exists())
    _move(_find(folder, _RUN_FILES), place)
    return place


def _find(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [path for pattern in patterns for path in folder.glob(pattern)]


def _move(paths: list[Path], folder: Path) -> None:
    make_folder(folder)
    for path in paths:
        os.replace(path, folder / path.name)
