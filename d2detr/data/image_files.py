"""Finding missing and truncated image files among very many, without decoding them all."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from d2detr.data.loading import datasets_root_hint
from d2detr.errors import UserError

NUM_THREADS = 16
FILES_PER_TASK = 500
SECONDS_PER_LOG_LINE = 10
MAX_LISTED = 5
EXIF_ORIENTATION = 274  # the tag's number; values above 4 swap width and height

logger = logging.getLogger(__name__)


def check_image_files(dataset_name: str, file_names: Iterable[str]) -> None:
    """Check that image files exist and are not cut off.

    A JPEG or PNG file whose last bytes mark its end passes; any other file is decoded.

    Args:
        dataset_name: for the messages.
        file_names: local paths. Those with a scheme ("s3://...") are skipped.

    Raises:
        UserError: files are missing or cannot be decoded; names the first of them.
    """
    local = sorted({name for name in file_names if "://" not in name})
    missing: list[str] = []
    unreadable: list[str] = []
    tasks = [
        local[start : start + FILES_PER_TASK] for start in range(0, len(local), FILES_PER_TASK)
    ]
    with ThreadPoolExecutor(NUM_THREADS) as executor:
        logged = time.monotonic()
        for number, problems in enumerate(executor.map(_find_problems, tasks), start=1):
            missing.extend(name for name, problem in problems if problem is None)
            unreadable.extend(f"{name} ({problem})" for name, problem in problems if problem)
            if time.monotonic() - logged > SECONDS_PER_LOG_LINE:
                logged = time.monotonic()
                logger.info(
                    f"{dataset_name}: checked {number * FILES_PER_TASK} of {len(local)} files"
                )
    if missing:
        raise UserError(
            f"Dataset {dataset_name!r} lacks {len(missing)} of its {len(local)} image files, "
            f"first {os.path.abspath(missing[0])}. {datasets_root_hint()}"
        )
    if unreadable:
        more = ", ..." if len(unreadable) > MAX_LISTED else ""
        raise UserError(
            f"Dataset {dataset_name!r}: {len(unreadable)} of its {len(local)} image files cannot "
            f"be read: {', '.join(unreadable[:MAX_LISTED])}{more}. Replace or remove them."
        )


def decoding_problem(file_name: str) -> str | None:
    """Decode an image file; return what is wrong with it, or None."""
    try:
        with Image.open(file_name) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # Pillow repeats the path in some messages.
        return str(error).replace(f" {file_name!r}", "")
    return None


def displayed_size(image: Image.Image) -> tuple[int, int]:
    """Return (width, height) of an opened image as it is displayed, its EXIF rotation applied.

    Nothing is decoded.
    """
    width, height = image.size
    is_turned = image.getexif().get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    return (height, width) if is_turned else (width, height)


def _find_problems(file_names: list[str]) -> list[tuple[str, str | None]]:
    """Return (file, problem) for the bad ones; the problem is None if the file is missing."""
    problems = []
    for name in file_names:
        try:
            if _is_marked_complete(name):
                continue
        except FileNotFoundError:
            problems.append((name, None))
            continue
        except OSError:
            pass
        problem = decoding_problem(name)
        if problem is not None:
            problems.append((name, problem))
    return problems


def _is_marked_complete(file_name: str) -> bool:
    """Whether a file begins and ends like a JPEG or a PNG."""
    with open(file_name, "rb", buffering=0) as file:
        head = file.read(8)
        file.seek(-12, os.SEEK_END)
        tail = file.read(12)
    is_jpeg = head.startswith(b"\xff\xd8") and tail.endswith(b"\xff\xd9")
    is_png = head == b"\x89PNG\r\n\x1a\n" and tail[4:8] == b"IEND"
    return is_jpeg or is_png
