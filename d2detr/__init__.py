"""DETR as a Detectron2 meta-architecture. Importing this package registers it."""

from d2detr import compat

compat.apply()

from d2detr import checkpoint, data, modeling  # noqa: E402 registers datasets and architectures
from d2detr.config import add_detr_config  # noqa: E402

__all__ = ["add_detr_config", "data", "modeling"]

checkpoint.register_releases()
checkpoint.extend_detection_checkpointer()
