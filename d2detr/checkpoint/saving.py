"""The checkpoints of a run: written whole, and resumed from the newest that can be read."""

from __future__ import annotations

import logging
import zipfile
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from torch import nn

from d2detr.errors import UserError
from d2detr.files import open_replacing

FINAL_MODEL = "model_final"
BEST_MODEL = "model_best.pth"
# Of the checkpoints that are written at intervals; other files may be called model_2024.pth.
PERIODIC_MODELS = f"model_{'[0-9]' * 7}.pth"
_LAST = "last_checkpoint"

logger = logging.getLogger(__name__)


class RunCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer, which a kill or a full disk at any moment costs no checkpoint.

    ``last_checkpoint`` says where to resume. If it is lost, or what it names cannot be read, the
    newest checkpoint that can be read takes its place, and the log says so.

    Args:
        model: that is loaded.
        save_dir: of the checkpoints.
        averaged: a copy of the model whose weights are saved instead.
        options: of Detectron2's checkpointer.

    Attributes:
        saved_iteration: of the checkpoint that was written last by this process.
    """

    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        averaged: nn.Module | None = None,
        **options: Any,
    ):
        super().__init__(model, save_dir, **options)
        self.averaged = averaged
        self.path_manager = WholeFiles()
        self.saved_iteration: int | None = None

    def save(self, name: str, **kwargs: Any) -> None:
        loaded = self.model
        self.model = self.averaged or loaded
        try:
            super().save(name, **kwargs)
        finally:
            self.model = loaded
        self.saved_iteration = kwargs.get("iteration")

    def has_checkpoint(self) -> bool:
        """Whether there is a file to resume from, be it readable or not."""
        return super().has_checkpoint() or bool(checkpoints_of_run(Path(self.save_dir)))

    def find_checkpoint(self) -> str:
        """Return the checkpoint to resume from, "" if there is none, the same on every process.

        Raises:
            UserError: there are checkpoints, but none of them can be read.
        """
        found, problem = "", None
        if comm.is_main_process():  # the files are read whole, which once is enough
            try:
                found = self._find_checkpoint()
            except UserError as error:
                problem = str(error)
        found, problem = comm.all_gather((found, problem))[0]
        if problem is not None:
            raise UserError(problem)
        return found

    def _find_checkpoint(self) -> str:
        if "://" not in self.save_dir:
            return str(newest_checkpoint(Path(self.save_dir)) or "")
        return self.get_checkpoint_file() if super().has_checkpoint() else ""

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        checkpoint = self.find_checkpoint() if resume else ""
        if checkpoint:
            return self.load(checkpoint)
        return self.load(path, checkpointables=[])


class WholeFiles:
    """Detectron2's PathManager, whose new files appear once they are whole."""

    def __getattr__(self, name: str) -> Any:
        return getattr(PathManager, name)

    def open(self, path: str, mode: str = "r", **kwargs: Any) -> AbstractContextManager[IO]:
        if "w" in mode and "://" not in path:
            return open_replacing(path, mode)
        return PathManager.open(path, mode, **kwargs)


def is_whole(file: Path) -> bool:
    """Whether a checkpoint has all its bytes, as they were written."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile, EOFError):
        return False


def periodic_checkpoints(folder: str | Path) -> list[Path]:
    """Return the checkpoints that were written at intervals, the earliest iteration first."""
    return sorted(Path(folder).glob(PERIODIC_MODELS))


def newest_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that ``last_checkpoint`` names, or the newest that can be read.

    Returns:
        The file; None if the folder holds no checkpoints.

    Raises:
        UserError: it does, but none of them can be read.
    """
    named, files = _named_checkpoint(folder), checkpoints_of_run(folder)
    for file in files:
        if is_whole(file):
            if file != named:
                what = f"{named} cannot be read" if named else f"{folder / _LAST} names no file"
                logger.warning(f"{what}: taking {file}, the newest that can be.")
            return file
    if files:
        raise UserError(
            f"No checkpoint in {folder} can be read: {', '.join(x.name for x in files)}. Copy "
            "them again, or remove them to start from the beginning."
        )
    return None


def _named_checkpoint(folder: Path) -> Path | None:
    last = folder / _LAST
    name = last.read_text(errors="replace").strip("\0 \n") if last.is_file() else ""
    return folder / name if name else None


def checkpoints_of_run(folder: Path) -> list[Path]:
    """Return the one to resume from and then the others, the newest first."""
    files = [*periodic_checkpoints(folder), *folder.glob(f"{FINAL_MODEL}.pth")]
    newest_first = sorted(files, key=lambda file: file.stat().st_mtime, reverse=True)
    named = _named_checkpoint(folder)
    if named is None or not named.is_file():
        return newest_first
    return [named, *(file for file in newest_first if file != named)]
