"""How much memory a weight file may take, told before it is taken."""

import os
import zipfile
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from d2detr.errors import UserError

# Weights are numbers that hardly compress: what unpacks to more than this many times the size of
# its file, beyond the slack, is made to fill the memory.
_RATIO = 10
_SLACK = 64 << 20


def check_unpacked_size(path: str) -> None:
    """Check the sizes that a file of ``torch.save``, which is a ZIP archive, declares.

    Nothing is unpacked for this, and torch unpacks no more than is declared.

    Raises:
        UserError: it would unpack to far more than its size, or is damaged.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{path} is damaged, or was not copied completely: {error}") from None
    _check(path, size, "would unpack to")


def check_tensor_size(path: str, weights: Mapping[str, Any]) -> None:
    """Check that the tensors or arrays of a file are not views that pretend to far more values.

    Raises:
        UserError: they are.
    """
    size = sum(
        value.numel() * value.element_size() if isinstance(value, Tensor) else value.nbytes
        for value in weights.values()
    )
    _check(path, size, "claims tensors of")


def _check(path: str, size: int, what: str) -> None:
    file_size = os.path.getsize(path)
    if size > _RATIO * file_size + _SLACK:
        raise UserError(
            f"{path} was not read: it has {file_size:,} bytes, but {what} {size:,} bytes, as no "
            "file of trained weights does. Get the weights from another source, or save them anew "
            "with torch.save."
        )
