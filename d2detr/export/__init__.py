"""Models that run where PyTorch, Detectron2 and this package are absent, and what runs them."""

from d2detr.export.runner import ExportedModel, run

__all__ = ["ExportedModel", "run"]
