"""``hf://ORG/NAME`` and ``hf://ORG/NAME@REVISION``: weights of transformers on the hub."""

import re
from pathlib import Path
from typing import IO, Any

from detectron2.utils.file_io import PathHandler, PathManager

from d2detr.errors import UserError

PREFIX = "hf://"
_KINDS = ("safetensors", "bin")  # the first that there is


class HubHandler(PathHandler):
    """Fetches weights and their ``config.json`` by ``huggingface_hub``, into its cache.

    Its environment variables count: ``HF_HOME`` for the cache, ``HF_HUB_OFFLINE``, ``HF_TOKEN``.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, **kwargs: Any) -> str:
        """Return the folder of the weights.

        Raises:
            UserError: ``huggingface_hub`` is not installed, or the weights cannot be had.
        """
        match = re.fullmatch(rf"{PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", path)
        if match is None:
            raise UserError(
                f"{path} names no model; write hf://ORG/NAME or hf://ORG/NAME@REVISION."
            )
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import (
                LocalEntryNotFoundError,
                RepositoryNotFoundError,
                RevisionNotFoundError,
            )
        except ImportError:
            raise UserError(
                f"{path} needs the package huggingface_hub: pip install 'd2detr[hub]'."
            ) from None
        name, revision = match.groups()
        try:
            for kind in _KINDS:
                files = [f"*.{kind}", f"*.{kind}.index.json", "config.json"]
                folder = snapshot_download(name, revision=revision, allow_patterns=files)
                if list(Path(folder).glob(f"*.{kind}")):
                    return folder
        except RevisionNotFoundError:
            raise UserError(f"{name} on the hub has no revision {revision!r}.") from None
        except RepositoryNotFoundError:
            raise UserError(
                f"There is no model {name} on the hub, or it needs a token (HF_TOKEN)."
            ) from None
        except LocalEntryNotFoundError:
            raise UserError(
                f"{path} is not in the hub's cache, and cannot be downloaded without network (or "
                "with HF_HUB_OFFLINE). Copy its folder to this machine and name that."
            ) from None
        except Exception as error:  # of the network
            raise UserError(f"{path} cannot be downloaded: {error}") from None
        raise UserError(
            f"{name} on the hub holds no weights: no file ends in {' or '.join(_KINDS)}."
        )

    def _open(self, path: str, mode: str = "r", **kwargs: Any) -> IO:
        raise UserError(f"{path} is a folder of weights; it cannot be opened as a file.")


def register_hub() -> None:
    """Make ``hf://`` known to everything that opens files through Detectron2."""
    PathManager.register_handler(HubHandler(), allow_override=True)
