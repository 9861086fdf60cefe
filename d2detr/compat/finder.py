"""How the repairs reach Detectron2's modules."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import spec_from_loader
from types import ModuleType
from typing import Any

from d2detr.compat import libraries, stand_ins, training

REPAIRS: dict[str, Callable[[ModuleType], None]] = {
    "detectron2.data.common": training.sample_from_sets,
    "detectron2.engine.defaults": training.repair_defaults,
    "detectron2.engine.hooks": training.repair_hooks,
    "detectron2.engine.launch": training.repair_launch,
    "detectron2.model_zoo.model_zoo": stand_ins.explain_missing_configs,
}


class RepairingFinder(MetaPathFinder, Loader):
    """Imports stand-ins for missing modules, and repairs other modules right after their import."""

    def __init__(self) -> None:
        self.stand_ins = stand_ins.needed_stand_ins()
        scripted = dict.fromkeys(libraries.SCRIPTED, libraries.silence_script_deprecation)
        self.contexts = {**stand_ins.needed_loans(), **scripted}

    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if name in self.stand_ins:
            return spec_from_loader(name, self)
        if name not in REPAIRS and name not in self.contexts:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None:
            run = functools.partial(self.run_and_repair, spec.loader.exec_module)
            spec.loader.exec_module = run
        return spec

    def exec_module(self, module: ModuleType) -> None:
        self.stand_ins[module.__name__](module)

    def run_and_repair(self, run: Callable[[ModuleType], None], module: ModuleType) -> None:
        with self.contexts.get(module.__name__, contextlib.nullcontext)():
            run(module)
        if module.__name__ in REPAIRS:
            REPAIRS[module.__name__](module)
