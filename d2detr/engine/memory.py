"""How many images fit into the memory that there is."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor

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
    model = build_model(cfg).train()
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    device = torch.device(cfg.MODEL.DEVICE)
    dtype = torch.bfloat16 if device.type == "cpu" else torch.float16
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(device.type, dtype=dtype, enabled=cfg.SOLVER.AMP.ENABLED),
    ):
        losses = model([_largest_image(cfg)])
    del losses  # which held the tensors, so that no two could share an address
    weights = sum(x.untyped_storage().nbytes() for x in model.parameters())
    return sum(kept.values()), weights


def _largest_image(cfg: CfgNode) -> dict:
    short_sides = cfg.INPUT.MIN_SIZE_TRAIN
    height = short_sides if isinstance(short_sides, int) else max(short_sides)
    width = max(height, min(cfg.INPUT.MAX_SIZE_TRAIN, int(height * 5 / 3)))
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[0.0, 0.0, width / 2, height / 2]]))
    instances.gt_classes = torch.zeros(1, dtype=torch.int64)
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    return {"image": image, "height": height, "width": width, "instances": instances}
