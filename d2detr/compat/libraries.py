"""Repairs of torch, Pillow and NumPy: what Detectron2 uses, but they no longer have or allow."""

from __future__ import annotations

import argparse
import contextlib
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image

from d2detr.compat.installed import mentions

# Of Detectron2 and its dependencies, those that call torch.jit.script when they are imported.
SCRIPTED = ("detectron2.modeling.box_regression", "fvcore.nn.focal_loss")


def repair_libraries() -> None:
    """Makes the repairs of this file."""
    allow_namespaces_in_checkpoints()
    allow_numpy_in_checkpoints()
    restore_pillow_linear()
    restore_numpy_aliases()


def allow_namespaces_in_checkpoints() -> None:
    """The original DETR's .pth hold their arguments, which torch.load refuses since 2.6."""
    torch.serialization.add_safe_globals([argparse.Namespace])


def allow_numpy_in_checkpoints() -> None:
    """Checkpoints may hold NumPy arrays and numbers, which torch.load refuses since 2.6."""
    rebuild_array = np.empty(0).__reduce__()[0]
    rebuild_number = np.float64(0).__reduce__()[0]
    codes = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"
    torch.serialization.add_safe_globals(
        [np.ndarray, np.dtype, *{type(np.dtype(code)) for code in codes}]
        + [
            (rebuild, f"{package}.multiarray.{rebuild.__name__}")
            for rebuild in (rebuild_array, rebuild_number)
            for package in ("numpy.core", "numpy._core")  # as written by NumPy 1 and by NumPy 2
        ]
    )


def restore_pillow_linear() -> None:
    """`Image.LINEAR`, which 0.6 crops with, is gone since Pillow 10."""
    if mentions("data/transforms/transform.py", "Image.LINEAR") and not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR


def restore_numpy_aliases() -> None:
    """`np.bool`, `np.int`, `np.float` and `np.str`, which 0.6 uses, are gone since NumPy 1.24."""
    if mentions("data/build.py", "dtype=np.int)"):
        for builtin in (bool, int, float, str):
            # Looked up in __dict__, because hasattr() makes NumPy warn; NumPy 2 has a new np.bool.
            if builtin.__name__ not in np.__dict__:
                setattr(np, builtin.__name__, builtin)


@contextlib.contextmanager
def silence_script_deprecation() -> Iterator[None]:
    """SCRIPTED warn every user, by torch 2.14, that `torch.jit.script` is deprecated."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated")
        yield
