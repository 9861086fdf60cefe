"""DETR as a Detectron2 meta-architecture. Importing this package registers it."""

from typing import Any

from d2detr import threads

threads.bound_spinning()

from d2detr import compat  # noqa: E402

compat.apply()

from d2detr import checkpoint, data, datasets, modeling, solver  # noqa: E402 registers what they hold
from d2detr.config import add_detr_config  # noqa: E402

__all__ = ["Predictor", "add_detr_config", "data", "datasets", "modeling"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from d2detr.predict import Predictor  # with Detectron2's engine, which is slow

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


checkpoint.register_releases()
checkpoint.register_hub()
checkpoint.extend_detection_checkpointer()
solver.extend_detectron2_solver()
