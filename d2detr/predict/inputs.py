"""The images that a command line means: files, globs, folders, videos and webcams."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from d2detr.datasets.auto.tree import Tree
from d2detr.datasets.places import require_existing
from d2detr.errors import UserError


def find_images(inputs: list[str]) -> list[str]:
    """Return image files: those named, those that match globs, and all below folders.

    A named file need not exist if others do: it is left to the reading, like a broken one.

    Raises:
        UserError: a glob matches nothing, a folder holds no image, or nothing at all exists.
    """
    found: list[str] = []
    for item in inputs:
        expanded = os.path.expanduser(item)
        if glob.has_magic(expanded) and not os.path.exists(expanded):
            matches = sorted(x for x in glob.glob(expanded, recursive=True) if os.path.isfile(x))
            if not matches:
                raise UserError(f"--input {item} matches no file.")
            found.extend(matches)
        else:
            path = Path(expanded)
            images = Tree(path).images if path.is_dir() else [str(path)]
            if not images:
                raise UserError(f"--input {item} holds no image.")
            found.extend(images)
    if not any(os.path.exists(file) for file in found):
        require_existing(found[0], "--input")
    return list(dict.fromkeys(found))


class Video:
    """The frames of a video file or a webcam.

    Args:
        source: a path, or the number of a webcam.

    Attributes:
        source: as given.
        frames_per_second: of the video, 30 if it does not say.
        num_frames: None if it is not known, as of a webcam.

    Raises:
        UserError: OpenCV is not installed, or it cannot be opened.
    """

    def __init__(self, source: str | int):
        cv2 = import_opencv()
        self.source = source
        if isinstance(source, str):
            require_existing(source, "--video-input")
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            what = f"Webcam {source}" if isinstance(source, int) else f"Video {source}"
            raise UserError(f"{what} cannot be opened.")
        self.frames_per_second = self._capture.get(cv2.CAP_PROP_FPS) or 30.0
        frames = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.num_frames = frames if frames > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            success, bgr = self._capture.read()
            if not success:
                break
            yield np.ascontiguousarray(bgr[:, :, ::-1])
        self._capture.release()


class VideoWriter:
    """Writes RGB frames to a video file, opened with the size of the first of them."""

    def __init__(self, path: str | Path, frames_per_second: float):
        self._cv2 = import_opencv()
        self._path, self._rate = str(path), frames_per_second
        self._writer: Any = None

    def write(self, rgb: np.ndarray) -> None:
        if self._writer is None:
            codec = self._cv2.VideoWriter_fourcc(*"mp4v")
            size = rgb.shape[1], rgb.shape[0]
            self._writer = self._cv2.VideoWriter(self._path, codec, self._rate, size)
            if not self._writer.isOpened():
                raise UserError(f"The video {self._path} cannot be written.")
        self._writer.write(np.ascontiguousarray(rgb[:, :, ::-1]))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


def import_opencv() -> ModuleType:
    """Return cv2.

    Raises:
        UserError: it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "Videos and webcams need OpenCV: pip install 'd2detr[draw]' (or another build of it)."
        ) from error
    return cv2
