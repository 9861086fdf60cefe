"""The configs of this project, wherever it is installed."""

from detectron2.config import CfgNode
from detectron2.modeling import build_model
from torch import nn

from d2detr.checkpoint import RELEASES, load_weights
from d2detr.config import load_config, own_config_dir
from d2detr.errors import UserError

_RELEASED_WEIGHTS = {f"{name}.yaml": f"detr://{name}" for name in RELEASES}


def get_config_file(name: str) -> str:
    """Return the path of a config, such as "detr_r50.yaml".

    Raises:
        UserError: there is no such config; names those there are.
    """
    directory = own_config_dir()
    if not (directory / name).is_file():
        known = ", ".join(sorted(x.name for x in directory.glob("[!B]*.yaml")))
        raise UserError(f"There is no config {name!r}; choose from {known}.")
    return str(directory / name)


def get_config(name: str, trained: bool = False) -> CfgNode:
    """Return a config by its name.

    Args:
        name: such as "detr_r50.yaml".
        trained: set ``MODEL.WEIGHTS`` to the weights that the original authors released for it;
            otherwise it is what the config says, usually ImageNet weights of the backbone.

    Raises:
        UserError: there is no such config, or no released weights for it.
    """
    cfg = load_config(get_config_file(name))
    if trained:
        if name not in _RELEASED_WEIGHTS:
            raise UserError(f"{name} has no released weights; {', '.join(_RELEASED_WEIGHTS)} have.")
        cfg.MODEL.WEIGHTS = _RELEASED_WEIGHTS[name]
        cfg.MODEL.DETR.FROZEN_WEIGHTS = ""
    return cfg


def get(name: str, trained: bool = False, device: str | None = None) -> nn.Module:
    """Build a model by the name of its config and load ``MODEL.WEIGHTS``.

    Args:
        name: such as "detr_r50.yaml".
        trained: see :func:`get_config`.
        device: default ``MODEL.DEVICE``, or "cpu" where there is no GPU.

    Returns:
        The model, in training mode.

    Raises:
        UserError: there is no such config, or its weights cannot be downloaded.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model
