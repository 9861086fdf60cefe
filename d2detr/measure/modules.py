from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Switch a model to training or inference for a while."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def with_ancestors(module: str) -> Iterator[str]:
    """Yield "", "a" and "a.b" for "a.b"."""
    yield ""
    parts = module.split(".") if module else []
    for length in range(1, len(parts) + 1):
        yield ".".join(parts[:length])
