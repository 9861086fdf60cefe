"""The entry points of torch.hub: every config by its name, and the original's by theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from d2detr import model_zoo
from d2detr.modeling import DETR
from d2detr.modeling.original_format import (
    BoxPostprocessor,
    OriginalFormat,
    PanopticPostprocessor,
)

# The original's names of its models, and their configs.
_ORIGINALS = {
    "detr_resnet50": "detr_r50",
    "detr_resnet50_dc5": "detr_r50_dc5",
    "detr_resnet101": "detr_r101",
    "detr_resnet101_dc5": "detr_r101_dc5",
    "detr_resnet50_panoptic": "detr_panoptic_r50",
    "detr_resnet50_dc5_panoptic": "detr_panoptic_r50_dc5",
    "detr_resnet101_panoptic": "detr_panoptic_r101",
}
# Classes of the original are COCO's category ids, things up to 90 and then stuff.
_NUM_CATEGORY_IDS = {"boxes": 91, "panoptic": 250}
_LAST_THING = 90


def entry_points() -> dict[str, Callable[..., Any]]:
    """Return functions by name that build models."""
    own = {name: _own(name) for name in model_zoo.names()}
    return own | {name: _original(name, config) for name, config in _ORIGINALS.items()}


def _own(name: str) -> Callable[..., nn.Module]:
    def build(
        pretrained: bool = False, num_classes: int | None = None, device: str | None = None
    ) -> nn.Module:
        return model_zoo.get(name, pretrained, device, num_classes)

    build.__name__ = name
    build.__doc__ = f"""Build the model of configs/{name}.yaml, which takes Detectron2's inputs.

    Args:
        pretrained: load the weights that the authors released, where they did; otherwise those
            that training starts from.
        num_classes: default: those of the config. Of another number, classes are learned anew.
        device: default: a GPU, or the CPU where there is none.
    """
    return build


def _original(name: str, config: str) -> Callable[..., Any]:
    kind = "panoptic" if "panoptic" in name else "boxes"

    def build(
        pretrained: bool = False,
        num_classes: int = _NUM_CATEGORY_IDS[kind],
        threshold: float = 0.85,
        return_postprocessor: bool = False,
    ) -> Any:
        detr = model_zoo.get(config, pretrained, "cpu", num_classes)
        assert isinstance(detr, DETR)
        model = OriginalFormat(detr)
        if not return_postprocessor:
            return model
        if kind == "boxes":
            return model, BoxPostprocessor()
        return model, PanopticPostprocessor(range(_LAST_THING + 1), threshold)

    build.__name__ = name
    build.__doc__ = f"""Build {config} with the inputs and outputs of the original.

    Args:
        pretrained: load the released weights; otherwise those that training starts from.
        num_classes: without no-object; the released weights have {_NUM_CATEGORY_IDS[kind]}.
        threshold: of the scores of panoptic segments.
        return_postprocessor: return the model and what makes results of its outputs.
    """
    return build
