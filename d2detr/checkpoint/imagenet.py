"""The key names of backbones trained on ImageNet: those of torchvision, timm and Detectron2."""

from torch import Tensor

from d2detr.checkpoint.original import RESNET
from d2detr.checkpoint.renaming import Renaming, StateDict

_NAMES = Renaming(RESNET)
_CLASSIFIERS = ("fc.", "linear.", "head.fc.")


def from_torchvision(state_dict: StateDict) -> dict[str, Tensor]:
    """Rename the keys of a torchvision or timm ResNet; its classifier is left out."""
    return from_detectron2(_NAMES.to_ours(state_dict))


def from_detectron2(state_dict: StateDict) -> dict[str, Tensor]:
    """Place a Detectron2 ResNet at ``backbone.``; its classifier is left out."""
    return {
        key if key.startswith("backbone.") else f"backbone.{key}": value
        for key, value in state_dict.items()
        if not key.startswith(_CLASSIFIERS)
    }


def from_swin(state_dict: StateDict) -> dict[str, Tensor]:
    """Place the stages of a torchvision Swin Transformer at ``backbone.``, without what follows."""
    return {f"backbone.{k}": v for k, v in state_dict.items() if k.startswith("features.")}
