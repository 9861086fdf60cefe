"""Whose an output folder is: a run never overwrites another one's."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from detectron2.utils.file_io import PathManager

from d2detr.errors import UserError
from d2detr.files import make_folder

# What a training leaves behind; nothing else is ever removed.
_RUN_FILES = (
    "last_checkpoint",
    "model_*.pth",
    "best.json",
    "metrics.json",
    "results.json",
    "events.out.tfevents.*",
    "config.yaml",
    "classes.json",
    "log.txt*",
    "inference",
    "predictions",
)
_PROOFS = ("last_checkpoint", "model_*.pth", "metrics.json", "results.json")

logger = logging.getLogger(__name__)


def holds_run(folder: str | Path) -> bool:
    """Whether a folder holds what a training has done, be it a checkpoint or a line of metrics."""
    return any(True for pattern in _PROOFS for _ in Path(folder).glob(pattern))


def holds_checkpoint(folder: str) -> bool:
    """Whether a folder, or a place that Detectron2's PathManager knows, has a run to resume."""
    return PathManager.exists(os.path.join(folder, "last_checkpoint"))


def claim_output(folder: str | Path, resume: bool = False, overwrite: bool = False) -> None:
    """Make sure that a run may write to a folder; it is made if it does not exist.

    Args:
        folder: the output folder.
        resume: go on with the run that it holds.
        overwrite: remove the files of that run. Other files stay.

    Raises:
        UserError: the folder holds a run and neither is asked for, or cannot be written.
    """
    folder = make_folder(folder)
    if resume or not holds_run(folder):
        return
    if not overwrite:
        raise UserError(
            f"{folder} holds another run. Go on with it by --resume, replace it by --overwrite, "
            "or choose another folder."
        )
    logger.warning(f"Removing the run in {folder}.")
    for pattern in _RUN_FILES:
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
