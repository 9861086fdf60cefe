"""What lies in a folder: one walk, shared by everything that looks for a dataset in it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

IMAGE_SUFFIXES = frozenset((".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"))
SPLITS = ("train", "val", "test")
_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "minival", "eval"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass(frozen=True)
class Source:
    """The annotations of one split, found but not yet read.

    Attributes:
        format: the format's name, for people.
        split: "train", "val" or "test"; None if the dataset is not divided.
        origin: the file or folder that stands for it in messages.
        inputs: the files that decide what ``read`` returns.
        read: returns the content of a COCO instance annotation file, with absolute file names.
    """

    format: str
    split: str | None
    origin: str
    inputs: list[str] = field(repr=False)
    read: Callable[[], dict[str, Any]] = field(repr=False)


class Tree:
    """The files below a folder.

    Args:
        root: the folder; links in it are followed.

    Attributes:
        root: its absolute path.
        by_suffix: sorted absolute paths for each lower-case suffix.
    """

    def __init__(self, root: str | os.PathLike):
        self.root = os.path.abspath(root)
        self.by_suffix: dict[str, list[str]] = defaultdict(list)
        visited = set()
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(folder)
            if real in visited:  # a link to a folder above it
                folders.clear()
                continue
            visited.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                # "._" files are what macOS adds to archives.
                if not name.startswith("."):
                    suffix = os.path.splitext(name)[1].lower()
                    self.by_suffix[suffix].append(os.path.join(folder, name))

    @cached_property
    def images(self) -> list[str]:
        """Every image file, sorted."""
        return sorted(path for suffix in IMAGE_SUFFIXES for path in self.by_suffix[suffix])

    @cached_property
    def image_folders(self) -> list[str]:
        """The folders that directly hold images, sorted."""
        return sorted({os.path.dirname(path) for path in self.images})

    def with_suffix(self, *suffixes: str) -> list[str]:
        """Return the files with any of these suffixes, sorted."""
        return sorted(path for suffix in suffixes for path in self.by_suffix[suffix])

    def split_of(self, path: str) -> str | None:
        """Tell the split from the words of a path below the root, those nearest its end first."""
        for part in reversed(Path(path).relative_to(self.root).parts):
            for word in reversed(re.findall(r"[a-z]+", part.lower())):
                if word in _SPLIT_WORDS:
                    return _SPLIT_WORDS[word]
        return None
