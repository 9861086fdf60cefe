"""Deterministic weights of DETR's successors, as in ``weights.py``."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import torch

from tests.reference.weights import reference_tensor

DIRECTORY = Path(__file__).parent

# Queries stay different from each other through six layers if each listens to the image more than
# to the other queries.
_DECODER_GAINS = {
    "self_attn.out_proj": 0.3,
    "cross_attn.out_proj": 2.0,
    "cross_attn.output_proj": 1.0,
    "cross_attn.sampling_offsets": 0.5,
    "linear2": 0.5,
}


def family_state_dict(name: str) -> dict[str, torch.Tensor]:
    """The state dict behind ``NAME.pt``, with the names of the original release."""
    spec = json.loads((DIRECTORY / f"{name}.shapes.json").read_text())
    weights = {}
    for key, shape in spec["shapes"].items():
        weights[key] = torch.from_numpy(np.ascontiguousarray(_tensor(key, shape), np.float32))
        for ending, factor in spec.get("scale", {}).items():
            if key.endswith(ending):
                weights[key] *= factor
        if key in spec.get("zeros", ()):
            weights[key].zero_()
    return weights | {alias: weights[key] for alias, key in spec["aliases"].items()}


def checksum(weights: dict[str, torch.Tensor]) -> str:
    """Of names and bytes, as ``NAME.pt`` has it."""
    digest = hashlib.sha256()
    for key in sorted(weights):
        digest.update(key.encode() + weights[key].numpy().tobytes())
    return digest.hexdigest()


def _tensor(key: str, shape: list[int]) -> np.ndarray:
    x = reference_tensor(key, shape)
    if key.startswith("backbone."):
        return x
    module, leaf = key.split(".")[-2:]
    random = np.random.RandomState(zlib.crc32(key.encode()) % 2**32)
    raw = random.standard_normal(tuple(shape)).astype(np.float32)
    width = np.sqrt(shape[-1])
    if "class_embed" in key:
        return 2.0 * raw / width if leaf == "weight" else 0.5 * raw - 2.0
    if "bbox_embed" in key and key.endswith("layers.2.weight"):
        return 1.5 * raw / width
    for name, gain in _DECODER_GAINS.items():
        if "decoder.layers" in key and key.endswith(f"{name}.weight"):
            return gain * raw / width
    if module == "activation":  # slope of a PReLU
        return 0.25 + 0.05 * raw
    if module.endswith("norm") or (key.startswith("input_proj.") and module == "1"):
        return 1 + 0.1 * raw if leaf == "weight" else 0.05 * raw
    if module.startswith(("sa_", "ca_")) and leaf == "weight":
        gain = 1.5 if module.endswith("_v_proj") else 3.0 if "pos" in module else 1.0
        return gain * raw / width
    if key.endswith("decoder.query_scale.layers.1.bias"):
        return 1 + 0.05 * raw
    if module == "sampling_offsets" and leaf == "bias":
        return 1.5 * raw
    if module == "attention_weights" and leaf == "weight":
        return 2.0 * raw / width
    if key == "transformer.enc_output.bias":  # cells without a proposal shall not be chosen
        return -x
    if leaf == "level_embed":
        return 0.5 * raw
    if module == "refpoint_embed":
        raw[:, :2] *= 1.2
        raw[:, 2:] = 0.7 * raw[:, 2:] - 1.0
        return raw
    return raw if module in ("label_enc", "tgt_embed") else x
