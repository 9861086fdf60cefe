"""Deterministic weights: each a function of its original name and shape alone.

NumPy's RandomState streams are frozen, so the weights depend on no library version, except for
the last bit where NumPy computes an exponential otherwise.
"""

import json
import zlib
from pathlib import Path

import numpy as np
import torch

KEYS_FILE = Path(__file__).parent / "detr_r50_keys.json"
MASK_KEYS_FILE = Path(__file__).parent / "mask_head_keys.json"


def reference_state_dict(*, masks: bool = False) -> dict[str, torch.Tensor]:
    """The state dict behind ``detr_r50.pt``, with the names of the original release.

    Args:
        masks: add the mask head, as in ``detr_r50_masks.pt``.
    """
    shapes = json.loads(KEYS_FILE.read_text())
    if masks:
        shapes = {f"detr.{key}": shape for key, shape in shapes.items()}
        shapes |= json.loads(MASK_KEYS_FILE.read_text())
    return {key: torch.from_numpy(reference_tensor(key, shape)) for key, shape in shapes.items()}


def reference_tensor(key: str, shape: list[int]) -> np.ndarray:
    """The weight of a name and a shape of the original release."""
    key = key.removeprefix("detr.")
    random = np.random.RandomState(zlib.crc32(key.encode()) % 2**32)
    x = random.standard_normal(tuple(shape)).astype(np.float32)
    *_, module, leaf = parts = key.split(".")
    is_shortcut_norm = module == "1" and parts[-3] == "downsample"
    if leaf == "running_mean":
        x = 0.1 * x
    elif leaf == "running_var":
        x = np.exp(0.2 * x)
    elif "backbone" in key and (module.startswith("bn") or is_shortcut_norm):
        last = module == "bn3"
        if leaf == "weight":
            x = (0.3 if last else 1.0) * np.exp(0.1 * x)
        else:
            x = 0.1 * x - (0.3 if last else 0.0)
    elif module.startswith(("norm", "gn")):
        x = 1 + 0.1 * x if leaf == "weight" else 0.05 * x
    elif leaf in ("in_proj_bias", "bias"):
        x = 0.05 * x
        if key == "class_embed.bias":
            x[-1] += 8.0  # some queries become no-object
    elif key == "query_embed.weight":
        x = 2.0 * x
    elif leaf == "in_proj_weight":
        x = x * (3.0 if "decoder" in key else 1.5) / np.sqrt(shape[1])
    elif key in ("class_embed.weight", "bbox_embed.layers.2.weight"):
        x = x * 3.0 / np.sqrt(shape[1])
    elif "encoder" in key and ("out_proj" in key or "linear2" in key):
        x = x * 0.1 / np.sqrt(shape[1])
    elif x.ndim >= 2:
        gain = 2.0 if "backbone" in key or "mask_head" in key else 1.0
        x = x * np.sqrt(gain / int(np.prod(shape[1:])))
    return np.ascontiguousarray(x, dtype=np.float32)
