from __future__ import annotations

import os


def usable_cores() -> int:
    """The processor cores that this process may run on, at least 1.

    Containers and batch systems often allow fewer than the machine has; macOS and Windows cannot
    tell, so there all of them count.
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
