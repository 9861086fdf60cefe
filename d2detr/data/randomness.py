"""Random numbers that do not depend on what was drawn before."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def seed_random_numbers(*key: int) -> None:
    """Seed Python, NumPy and torch with what follows from ``key``, numbers in [0, 2**32)."""
    np.random.seed(key)
    first, second = np.random.randint(2**31, size=2).tolist()
    random.seed(first)
    # torch.manual_seed takes as long as reading a small image, for devices that are not there.
    torch.default_generator.manual_seed(second)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(second)


@contextmanager
def unchanged_random_numbers() -> Iterator[None]:
    """Give Python, NumPy and torch back, at the end, the states that they had before."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
