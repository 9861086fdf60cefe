"""Saying where a missing file was expected."""

from __future__ import annotations

import os
from pathlib import Path

from d2detr.errors import UserError


def require_existing(path: str | os.PathLike, what: str) -> Path:
    """Return a path that must exist.

    Raises:
        UserError: it does not; names the nearest folder above it that does, and what is in it
            unless it is the root.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise UserError(f"{what} {path} does not exist. {_nearest_folder(path)}")
    return path


def explain_missing(path: str | os.PathLike) -> str:
    """Say, as a sentence for error messages, why a file is not where it was looked for.

    The variable DETECTRON2_DATASETS is named where the path lies in the folder that it stands for.
    """
    variable = os.getenv("DETECTRON2_DATASETS")
    root = os.path.abspath(os.path.expanduser(variable or "datasets"))
    if Path(os.path.abspath(path)).is_relative_to(root):
        if variable is None:
            return (
                "The environment variable DETECTRON2_DATASETS, which says where the datasets of "
                "Detectron2 are, is not set, so that they are expected in ./datasets."
            )
        return f"The datasets of Detectron2 are expected in DETECTRON2_DATASETS={variable}."
    if not os.path.isabs(path):
        return f"The path is registered relative to the current folder, which is {os.getcwd()}."
    return _nearest_folder(Path(path))


def _nearest_folder(path: Path) -> str:
    parent = next(folder for folder in path.absolute().parents if folder.exists())
    is_telling = parent.is_dir() and parent != parent.parent
    inside = ", ".join(sorted(x.name for x in parent.iterdir())[:8]) if is_telling else ""
    holds = f", which holds {inside}" if inside else ""
    return f"The nearest folder above it that exists is {parent}{holds}."
