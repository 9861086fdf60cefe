"""What a step does, counted: unlike its time, the same on every machine."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from d2detr.measure.timing import Step

# What looks at values, for which a GPU would have to be waited for.
_READS = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique2", "masked_select"}


@dataclass(frozen=True)
class Counts:
    """What one step did.

    Attributes:
        operators: calls of torch's operators, without those that only make views.
        allocated_mib: of their results, also of those that were freed at once.
        reads: operators whose result the host waits for.
    """

    operators: int
    allocated_mib: float
    reads: int


def count(step: Step) -> Counts:
    """Run a step and count what it does, in the forward and in the backward pass."""
    with _Counting() as counting:
        step()
    return Counts(counting.operators, counting.allocated / 2**20, counting.reads)


class _Counting(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operators = self.allocated = self.reads = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        if not function.is_view:
            self.operators += 1
        name = function.overloadpacket.__name__
        selects = name.startswith("index") and any(
            x.dtype == torch.bool for x in _tensors(args[1:2])
        )
        self.reads += name in _READS or selects
        known = {x.untyped_storage().data_ptr() for x in _tensors((args, kwargs))}
        new = {x.untyped_storage().data_ptr(): x.untyped_storage() for x in _tensors(result)}
        self.allocated += sum(x.nbytes() for key, x in new.items() if key not in known)
        return result


def _tensors(tree: Any) -> list[Tensor]:
    """Those with memory of their own: sparse ones are put together from others."""
    tensors = [x for x in tree_leaves(tree) if isinstance(x, Tensor)]
    return [x for x in tensors if x.layout == torch.strided]
