"""DETR as a Detectron2 meta-architecture. Importing this package registers it."""

from typing import Any

from d2detr import compat

compat.apply()

from d2detr import checkpoint, data, modeling  # noqa: E402 registers datasets and architectures
from d2detr.config import add_detr_config  # noqa: E402

__all__ = ["Predictor", "add_detr_config", "data", "modeling"]


def __getattr__(name: str) -> Any:
    if name == "Predictor":
        from d2detr.engine.predictor import Predictor  # with Detectron2's engine, which is slow

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


checkpoint.register_releases()
checkpoint.extend_detection_checkpointer()
