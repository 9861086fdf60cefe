"""What each JSON file below a folder is, remembered so that unchanged files are not read again."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from iopath.common.file_io import get_cache_dir

from d2detr.datasets.auto.coco_json import Verdict, judge
from d2detr.errors import UserError
from d2detr.files import make_folder, read_json, write_json

# To be raised with every change of what ``judge`` says.
VERSION = 1


def cache_folder() -> Path:
    """Return the folder of what is remembered of datasets; FVCORE_CACHE moves it."""
    return Path(get_cache_dir()) / "d2detr" / "datasets"


def file_state(path: str) -> list:
    """Return what changes when a file is written: path, size and time, or the path alone."""
    try:
        status = os.stat(path)
    except OSError:
        return [path]
    return [path, status.st_size, status.st_mtime_ns]


def judge_files(root: str, paths: Iterable[str]) -> dict[str, Verdict]:
    """Say what JSON files are.

    Args:
        root: the folder that they are in, whose verdicts are remembered together.
        paths: the files.

    Returns:
        A verdict on each path.
    """
    key = hashlib.sha256(f"{VERSION}:{root}".encode()).hexdigest()[:24]
    memory = cache_folder() / f"verdicts-{key}.json"
    remembered = _load(memory)
    states = {path: file_state(path) for path in paths}
    verdicts = {}
    for path, state in states.items():
        known = remembered.get(path, [None])
        verdicts[path] = Verdict(*known[1:]) if known[0] == state else judge(path)
    entries = {
        path: [states[path], *verdict]
        for path, verdict in verdicts.items()
        if verdict.kind != "unparsable"  # which may have to do with more than the file
    }
    if entries != remembered:
        # Whoever cannot write here is told so when the dataset is converted.
        with contextlib.suppress(UserError):
            make_folder(memory.parent)
            write_json(memory, entries)
    return verdicts


def _load(memory: Path) -> dict[str, list]:
    try:
        return read_json(memory)
    except UserError:
        return {}
