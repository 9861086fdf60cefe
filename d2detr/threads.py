"""How the threads of torch on a CPU wait for work. Imports nothing, for torch comes after it."""

import os
import sys

# Turns of a loop, tens of microseconds. OpenMP's own 300,000 are milliseconds at every operator, in
# which a thread keeps the core from whatever else wants it: a data loader, or the very thread that
# it waits for. docs/performance.md compares them.
SPIN_COUNT = "1000"


def bound_spinning() -> None:
    """Let OpenMP's waiting threads sleep soon, unless the user chose or torch is loaded already.

    GNU's OpenMP, which torch brings on Linux, reads the variable once, when it is loaded. Others
    do not know it. Processes that are started from here inherit it.
    """
    if "torch" not in sys.modules and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
