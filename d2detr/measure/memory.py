"""The memory of activations."""

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from d2detr.measure.modules import in_mode, with_ancestors


def bytes_kept_for_backward(model: nn.Module, inputs: Any, amp: bool = False) -> Counter[str]:
    """Measure what the forward pass of training keeps for the backward pass, by module.

    A tensor counts once, where it is first kept, and weights do not. This is most of what grows
    with the batch; gradients and what operators need while they run come on top.

    Args:
        model: trained on its device.
        inputs: its argument, with ground truth.
        amp: use mixed precision.
    """
    own = _addresses(model)
    kept: Counter[str] = Counter()

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            own.add(storage.data_ptr())
            for module in with_ancestors(running[-1]):
                kept[module] += storage.nbytes()
        return tensor

    device = next(model.parameters()).device.type
    dtype = torch.bfloat16 if device == "cpu" else torch.float16
    with (
        in_mode(model, training=True),
        _running_modules(model) as running,
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast(device, dtype=dtype, enabled=amp),
    ):
        losses = model(inputs)
    del losses  # which held the tensors, so that no two could share an address
    return kept


@torch.no_grad()
def inference_peak_bytes(model: nn.Module, inputs: Any) -> int:
    """Measure the most bytes of tensors that an inference holds at a time.

    Weights, what the model caches of them and inputs do not count, nor what operators need while
    they run.
    """
    with in_mode(model, training=False):
        model(inputs)  # fills the caches
        with _LiveTensors(_addresses(model)) as live:
            model(inputs)
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Adds up the memory of the tensors that operators return, until it is freed."""

    def __init__(self, known: set[int]):
        super().__init__()
        self.known = known
        self.bytes = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self._follow(x.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if address in self.known:
            return
        self.known.add(address)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)
        weakref.finalize(storage, self._forget, address, size)

    def _forget(self, address: int, size: int) -> None:
        self.known.discard(address)
        self.bytes -= size


def _addresses(model: nn.Module) -> set[int]:
    """Where weights are in memory."""
    return {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}


@contextmanager
def _running_modules(model: nn.Module) -> Iterator[list[str]]:
    """Give the names of the modules that are running, the innermost last."""
    running = [""]

    def leave(*_) -> None:
        running.pop()

    hooks: list[RemovableHandle] = []
    for name, module in model.named_modules():
        enter = partial(_enter, running, name)
        hooks += module.register_forward_pre_hook(enter), module.register_forward_hook(leave)
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()


def _enter(running: list[str], name: str, *_) -> None:
    running.append(name)
