"""Finding missing, truncated and mislabelled image files among very many, most without decoding."""

from __future__ import annotations

import os
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image

NUM_THREADS = 16
FILES_PER_TASK = 500
EXIF_ORIENTATION = 274  # the tag's number; values above 4 swap width and height
# What is compared first of files of equal length.
_HEAD_BYTES = 1 << 14
# The corner of an image, in pixels: the part of a JPEG that is stored last.
_CORNER = 8
# What decoders put where the data of a JPEG are missing.
_GREY = 128


@dataclass(frozen=True)
class ImageState:
    """What an image file is like.

    Attributes:
        missing: whether there is no such file.
        problem: why it cannot be read, if so.
        size: (width, height) as displayed, None if it cannot be read.
        turned: whether its EXIF orientation swaps width and height.
        ends_grey: whether it is a JPEG that was decoded and ends in plain grey, as those do whose
            data are damaged inside: decoders raise no error for it.
    """

    missing: bool = False
    problem: str | None = None
    size: tuple[int, int] | None = None
    turned: bool = False
    ends_grey: bool = False


def inspect_images(file_names: Sequence[str], num_decoded: int = 0) -> Iterator[ImageState]:
    """Read the headers of image files, with many threads.

    A file whose last bytes do not mark its end, as those of a JPEG or PNG do, is decoded.

    Args:
        file_names: local paths; those with a scheme ("s3://...") pass without being looked at.
        num_decoded: how many are decoded whatever their ends say, spread over all of them.

    Yields:
        A state for each file, in their order.
    """
    count = min(num_decoded, len(file_names))
    decoded = set(np.linspace(0, len(file_names) - 1, count).astype(int).tolist())
    size = max(10, FILES_PER_TASK * (len(file_names) - count) // max(1, len(file_names)))
    indices = range(len(file_names))
    tasks = [indices[start : start + size] for start in indices[::size]]

    def inspect(task: range) -> list[ImageState]:
        return [_inspect(file_names[index], index in decoded) for index in task]

    with ThreadPoolExecutor(NUM_THREADS) as executor:
        yield from chain.from_iterable(executor.map(inspect, tasks))


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened image as it is displayed, its EXIF rotation applied.

    Nothing is decoded.
    """
    width, height = image.size
    return (height, width) if _is_turned(image) else (width, height)


def same_files(first: Sequence[str], second: Sequence[str]) -> dict[int, int]:
    """Find files of equal content, whatever their names.

    Returns:
        For the index of each file in ``second`` that is in ``first`` too, its index there.
    """
    lengths: dict[int, list[int]] = defaultdict(list)
    for index, name in enumerate(first):
        lengths[_length(name)].append(index)
    candidates = {
        index: lengths[_length(name)]
        for index, name in enumerate(second)
        if _length(name) and _length(name) in lengths
    }
    heads = {
        index: _checksum(first[index], _HEAD_BYTES)
        for index in {index for group in candidates.values() for index in group}
    }
    same = {}
    for index, group in candidates.items():
        head = _checksum(second[index], _HEAD_BYTES)
        for other in group:
            if heads[other] == head and (
                os.path.samefile(first[other], second[index])
                or Path(first[other]).read_bytes() == Path(second[index]).read_bytes()
            ):
                same[index] = other
                break
    return same


def _inspect(file_name: str, decode: bool) -> ImageState:
    if "://" in file_name:
        return ImageState()
    try:
        must_decode = not _is_marked_complete(file_name) or decode
    except FileNotFoundError:
        return ImageState(missing=True)
    except (OSError, ValueError):
        must_decode = True
    try:
        with Image.open(file_name) as image:
            size, turned = displayed_size(image), _is_turned(image)
            if must_decode:
                image.load()
            ends_grey = must_decode and image.format == "JPEG" and _ends_grey(image)
            return ImageState(size=size, turned=turned, ends_grey=ends_grey)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow repeats the path in some messages.
        return ImageState(problem=str(error).replace(f" {file_name!r}", "") or "unreadable")


def _is_turned(image: Image.Image) -> bool:
    # Asked for what it does not have, a PNG is decoded to look behind the pixels.
    if image.format != "TIFF" and "exif" not in image.info:
        return False
    return image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)


def _ends_grey(image: Image.Image) -> bool:
    width, height = image.size
    corner = image.crop((max(0, width - _CORNER), max(0, height - _CORNER), width, height))
    return bool((np.asarray(corner) == _GREY).all())


def _is_marked_complete(file_name: str) -> bool:
    """Whether a file begins and ends like a JPEG or a PNG."""
    with open(file_name, "rb", buffering=0) as file:
        head = file.read(8)
        file.seek(-12, os.SEEK_END)
        tail = file.read(12)
    is_jpeg = head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")
    is_png = head == b"\x89PNG\r\n\x1a\n" and tail[4:8] == b"IEND"
    return is_jpeg or is_png


def _length(file_name: str) -> int:
    """Return a file's length in bytes, 0 if it cannot be had."""
    try:
        return os.stat(file_name).st_size
    except (OSError, ValueError):  # the latter for what cannot be a path
        return 0


def _checksum(file_name: str, limit: int) -> int:
    with open(file_name, "rb") as file:
        return zlib.crc32(file.read(limit))
