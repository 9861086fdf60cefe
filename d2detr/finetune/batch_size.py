"""How many images fit into the memory that there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2detr.measure import bytes_kept_for_backward, synthetic_inputs

# The share of the free memory to use: the rest is for the data loaders, and for what operators
# need while they run.
_USABLE = 0.6
# Weights, their gradients and AdamW's two averages.
_COPIES_OF_WEIGHTS = 4


def largest_batch(cfg: CfgNode) -> tuple[int, str]:
    """Return how many images one device can train on at once, and why, in words.

    One image of the largest size is passed through a freshly built model, and what autograd keeps
    for the backward pass is added up.
    """
    free = free_memory(cfg.MODEL.DEVICE)
    per_image, weights = _training_bytes(cfg)
    fitting = int((_USABLE * free - _COPIES_OF_WEIGHTS * weights) // per_image)
    gigabyte = 2**30
    return max(1, fitting), (
        f"an image of the largest size needs {per_image / gigabyte:.2f} GiB, and "
        f"{free / gigabyte:.1f} GiB are free"
    )


def free_memory(device: str) -> int:
    """Return the bytes that are free on a device, within the limits of a container."""
    if device.startswith("cuda"):
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit = group / "memory.max"
    if limit.is_file() and limit.read_text().strip().isdigit():
        used = int((group / "memory.current").read_text())
        free = min(free, int(limit.read_text()) - used)
    return free


def _training_bytes(cfg: CfgNode) -> tuple[int, int]:
    """Return the bytes that one image keeps for the backward pass, and those of the weights."""
    model = build_model(cfg)
    inputs = synthetic_inputs(_largest_size(cfg))
    kept = bytes_kept_for_backward(model, inputs, amp=cfg.SOLVER.AMP.ENABLED)
    weights = sum(x.untyped_storage().nbytes() for x in model.parameters())
    return kept[""], weights


def _largest_size(cfg: CfgNode) -> tuple[int, int]:
    short_sides = cfg.INPUT.MIN_SIZE_TRAIN
    height = short_sides if isinstance(short_sides, int) else max(short_sides)
    return height, max(height, min(cfg.INPUT.MAX_SIZE_TRAIN, int(height * 5 / 3)))
