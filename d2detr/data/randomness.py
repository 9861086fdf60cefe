"""Random numbers that do not depend on what was drawn before."""

import random

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
