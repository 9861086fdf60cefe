"""Files and folders that a run leaves: they are whole, or they are not there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from d2detr.errors import UserError

_PARTIAL = ".partial-"


def make_folder(folder: str | Path) -> Path:
    """Make an output folder if it does not exist, and return its path.

    Raises:
        UserError: it cannot be made.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"The output folder {folder} cannot be made: {error}.") from error
    return folder


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        UserError: it cannot be read, or is not JSON; says where it is not.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not JSON, or was cut off: {error.msg} at line {error.lineno}, column "
            f"{error.colno}."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not JSON: it is no UTF-8 text ({error.reason}).") from error


@contextmanager
def replacing(path: str | Path, *, durable: bool = True) -> Iterator[Path]:
    """Write a file or a folder beside its place, which it takes once it is whole.

    Whatever happens meanwhile, ``path`` holds all of what it held before or all of what was
    written.

    Args:
        path: the file, or a folder that does not exist yet.
        durable: wait until the disk has it, so that a loss of power cannot undo it.

    Yields:
        Where to write, in the same folder and with the same suffix.

    Raises:
        UserError: it cannot be written, because the disk is full for example. Nothing is left.
    """
    path = Path(path)
    partial = path.with_name(_PARTIAL + path.name)
    try:
        yield partial
        if durable and partial.is_file():
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:
        reason = _reason(error)
        if reason is None:
            raise
        raise UserError(
            f"{path} cannot be written: {reason}. What was there before is untouched."
        ) from error
    finally:
        _remove(partial)


@contextmanager
def replacing_in(folder: str | Path) -> Iterator[Path]:
    """Write files into a new folder, from which each takes its place in ``folder`` at the end.

    Raises:
        UserError: they cannot be written.
    """
    partial = Path(folder, _PARTIAL + "files")
    _remove(partial)
    make_folder(partial)
    try:
        yield partial
        for file in partial.iterdir():
            os.replace(file, Path(folder, file.name))
    except OSError as error:
        raise UserError(
            f"The files of {folder} cannot be written: {error.strerror or error}."
        ) from error
    finally:
        _remove(partial)


@contextmanager
def open_replacing(path: str | Path, mode: str = "w") -> Iterator[IO]:
    """Open a file to write, which takes its place when it is closed; see :func:`replacing`."""
    with replacing(path) as partial, open(partial, mode) as file:
        yield file


def write_text(path: str | Path, text: str) -> None:
    """Write a text file as a whole; see :func:`replacing`."""
    with open_replacing(path) as file:
        file.write(text)


def write_json(path: str | Path, content: Any, indent: int | None = None) -> None:
    """Write a JSON file as a whole; see :func:`replacing`."""
    write_text(path, json.dumps(content, indent=indent))


def remove_partial(folder: str | Path) -> None:
    """Remove what killed processes had not written completely."""
    for path in Path(folder).glob(_PARTIAL + "*"):
        _remove(path)


def _reason(error: BaseException) -> str | None:
    """Say what the system has against a file; torch hides it behind an error of its own."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return None if cause is None else cause.strerror or str(cause)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
