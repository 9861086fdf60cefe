"""``detr://detr_r50`` and the like: the weights that the original authors released."""

import hashlib
import logging
from functools import cache
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from d2detr.errors import UserError

logger = logging.getLogger(__name__)

PREFIX = "detr://"
# The official addresses; file names end with the first 8 digits of the file's sha256.
RELEASES_URL = "https://dl.fbaipublicfiles.com/detr"
RELEASES = {
    "detr_r50": "detr-r50-e632da11.pth",
    "detr_r50_dc5": "detr-r50-dc5-f0fb7ef5.pth",
    "detr_r101": "detr-r101-2c7b67e5.pth",
    "detr_r101_dc5": "detr-r101-dc5-a2e86def.pth",
    "detr_panoptic_r50": "detr-r50-panoptic-00ce5173.pth",
    "detr_panoptic_r50_dc5": "detr-r50-dc5-panoptic-da08f1b1.pth",
    "detr_panoptic_r101": "detr-r101-panoptic-40021d53.pth",
}


class DetrReleaseHandler(PathHandler):
    """Downloads a released file once, into iopath's cache, and checks that it is the official one.

    ``FVCORE_CACHE`` names the cache, which is ``~/.torch/iopath_cache`` otherwise.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        name = path.removeprefix(PREFIX)
        if name not in RELEASES:
            raise UserError(f"There are no weights {path}; choose from {_known_names()}.")
        url = f"{RELEASES_URL}/{RELEASES[name]}"
        try:
            local_path = PathManager.get_local_path(url, **kwargs)
        except Exception as error:  # a handler may raise whatever its library does
            raise UserError(
                f"{path} cannot be downloaded from {url}: {error}. On a machine without network, "
                f"copy that file to it and set MODEL.WEIGHTS to its path."
            ) from None
        _check_hash(local_path, url)
        return local_path

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        return PathManager.open(self._get_local_path(path), mode, **kwargs)


def register_releases() -> None:
    """Make ``detr://`` known to everything that opens files through Detectron2."""
    PathManager.register_handler(DetrReleaseHandler(), allow_override=True)


@cache  # once per process: reading 160 MB takes a moment
def _check_hash(local_path: str, url: str) -> None:
    expected = Path(url).stem.rpartition("-")[2]
    digest = hashlib.sha256()
    with open(local_path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    if not digest.hexdigest().startswith(expected):
        size = Path(local_path).stat().st_size
        Path(local_path).unlink()  # the next attempt downloads again
        raise UserError(
            f"What was downloaded from {url} is not the released file: its sha256 starts with "
            f"{digest.hexdigest()[:8]}, not {expected} ({size} bytes). It was removed; try again, "
            "and if that does not help, look for a proxy that answers in its place."
        )


def _known_names() -> str:
    return ", ".join(PREFIX + name for name in RELEASES)
