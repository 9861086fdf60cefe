"""The only place that knows that Detectron2, torch, NumPy and Pillow have versions.

Detectron2 0.6 was written in 2021 and expects its compiled extension; `apply`, which
`import d2detr` calls, makes Detectron2 itself run without it on today's libraries. Each repair is
one function whose docstring says what broke and since when. It is made only where the installed
Detectron2 still has the broken line, so that a main branch that needs no repair gets none (the
version cannot tell: main calls itself 0.6 too).

Modules of Detectron2 are repaired while they are being imported, because importing them from here
would cost seconds, and at once if they are imported already.
"""

from __future__ import annotations

import importlib
import sys

from d2detr.compat.cores import usable_cores
from d2detr.compat.finder import REPAIRS, RepairingFinder
from d2detr.compat.libraries import repair_libraries
from d2detr.compat.training import distributed_worker, leave_process_group

__all__ = ["apply", "distributed_worker", "leave_process_group", "usable_cores"]

DETECTRON2_IS_MISSING = """d2detr needs Detectron2, which is not installed. Either
  - install its official sources, which takes a C++ compiler:
      pip install --no-build-isolation \\
          'git+https://github.com/facebookresearch/detectron2.git@02b5c4e2'
  - or, in a checkout of d2detr, install the Python part of Detectron2 0.6:
      bash tools/setup_env.sh"""


def apply() -> None:
    """Makes the installed Detectron2 work on the installed torch, NumPy and Pillow.

    Raises:
        ImportError: Detectron2 is not installed; the message says how to get it.
    """
    try:
        detectron2 = importlib.import_module("detectron2")
    except ModuleNotFoundError as error:
        if error.name != "detectron2":
            raise
        raise ImportError(DETECTRON2_IS_MISSING, name="detectron2") from None
    if detectron2.__file__ is None:  # a mere folder of that name, such as a clone of its sources
        raise ImportError(DETECTRON2_IS_MISSING, name="detectron2", path=str(detectron2.__path__))
    if any(isinstance(finder, RepairingFinder) for finder in sys.meta_path):
        return
    repair_libraries()
    sys.meta_path.insert(0, RepairingFinder())
    for name, repair in REPAIRS.items():
        if name in sys.modules:
            repair(sys.modules[name])
