from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _Recomputing:
    def forward(self, *args: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            return checkpoint(super().forward, *args, use_reentrant=False)
        return super().forward(*args)

    def __reduce_ex__(self, protocol: int) -> tuple[Callable, ...]:
        # Pickling and copying find a class by its name, which those made here do not have.
        _, _, *state = cast(tuple, super().__reduce_ex__(protocol))
        return _new, (type(self).__bases__[1],), *state


@cache
def _recomputing(kind: type[nn.Module]) -> type[nn.Module]:
    return type(kind.__name__, (_Recomputing, kind), {})


def _new(kind: type[nn.Module]) -> nn.Module:
    return object.__new__(_recomputing(kind))


def recompute_activations(module: nn.Module) -> None:
    """Make a module compute its activations again in the backward pass and not store them.

    Costs another forward pass in training. Parameters, state dict and results stay as they are.

    Args:
        module: changed in place.
    """
    module.__class__ = _recomputing(type(module))
