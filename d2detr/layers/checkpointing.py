from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class _Recomputing:
    def forward(self, *args: Any) -> Any:
        if self.training and torch.is_grad_enabled():
            return checkpoint(super().forward, *args, use_reentrant=False)
        return super().forward(*args)


def recompute_activations(module: nn.Module) -> None:
    """Make a module compute its activations again in the backward pass and not store them.

    Costs another forward pass in training. Parameters, state dict and results stay as they are.

    Args:
        module: changed in place.
    """
    kind = type(module)
    module.__class__ = type(kind.__name__, (_Recomputing, kind), {})
