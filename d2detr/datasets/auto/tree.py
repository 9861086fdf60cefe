"""What lies in a folder: one walk, shared by everything that looks for a dataset in it."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
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
        # Real folders above each one that is still to be walked. A link to one of them would be
        # followed for ever; other links may share a folder.
        above = {self.root: frozenset((os.path.realpath(self.root),))}
        for folder, folders, names in os.walk(self.root, followlinks=True):
            real_above = above.pop(folder)
            for name in [*folders]:
                path = os.path.join(folder, name)
                real = os.path.realpath(path)
                if name.startswith(".") or real in real_above:
                    folders.remove(name)
                else:
                    above[path] = real_above | {real}
            folders.sort()
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
        """Tell the split from the words of a path below the root; None if there is no such word."""
        return split_of_parts(Path(path).relative_to(self.root).parts)


def split_of_parts(parts: Sequence[str]) -> str | None:
    """Tell the split from the words of a path's parts, those nearest its end first."""
    for part in reversed(parts):
        for word in reversed(re.findall(r"[a-z]+", part.lower())):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return None
