"""The configs of this project, wherever it is installed."""

from pathlib import Path

from detectron2.config import CfgNode, LazyConfig
from detectron2.modeling import build_model
from omegaconf import DictConfig
from torch import nn

from d2detr.checkpoint import RELEASES, load_weights
from d2detr.checkpoint.releases import PREFIX
from d2detr.config import load_config, own_config_dir
from d2detr.errors import UserError


def names() -> list[str]:
    """Return the names of all configs, such as "detr_r50"."""
    return sorted(path.stem for path in own_config_dir().glob("[!B]*.yaml"))


def get_config_file(name: str) -> str:
    """Return the path of a config: "detr_r50.yaml" or "detr_r50"; or "detr_r50.py" of lazy ones.

    Raises:
        UserError: there is no such config; names those there are.
    """
    if not Path(name).suffix:
        name += ".yaml"
    directory = own_config_dir() / ("lazy" if name.endswith(".py") else "")
    if not (directory / name).is_file():
        known = ", ".join(f"{known}{Path(name).suffix}" for known in names())
        raise UserError(f"There is no config {name!r}; choose from {known}.")
    return str(directory / name)


def get_config(name: str, trained: bool = False) -> CfgNode | DictConfig:
    """Return a config by its name.

    Args:
        name: such as "detr_r50.yaml", or "detr_r50.py" for a LazyConfig.
        trained: set ``MODEL.WEIGHTS`` to the weights that the original authors released for it;
            otherwise it is what the config says, usually ImageNet weights of the backbone.

    Raises:
        UserError: there is no such config, or no released weights for it.
    """
    file = get_config_file(name)
    weights = f"{PREFIX}{Path(name).stem}"
    if trained and Path(name).stem not in RELEASES:
        raise UserError(f"{name} has no released weights; {', '.join(RELEASES)} have.")
    if name.endswith(".py"):
        lazy = LazyConfig.load(file)
        if trained:
            lazy.train.init_checkpoint = weights
            lazy.config.opts = ["MODEL.DETR.FROZEN_WEIGHTS", ""]
        return lazy
    cfg = load_config(file)
    if trained:
        cfg.MODEL.WEIGHTS, cfg.MODEL.DETR.FROZEN_WEIGHTS = weights, ""
    return cfg


def get(
    name: str, trained: bool = False, device: str | None = None, num_classes: int | None = None
) -> nn.Module:
    """Build a model by the name of its config and load ``MODEL.WEIGHTS``.

    Args:
        name: such as "detr_r50.yaml".
        trained: see :func:`get_config`.
        device: default ``MODEL.DEVICE``, or "cpu" where there is no GPU.
        num_classes: default: those of the config.

    Returns:
        The model, in training mode.

    Raises:
        UserError: there is no such config, or its weights cannot be downloaded.
    """
    cfg = get_config(name, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    if num_classes is not None:
        cfg.MODEL.DETR.NUM_CLASSES = num_classes
    model = build_model(cfg)
    load_weights(model, cfg.MODEL.WEIGHTS)
    return model
