"""Detectron2's LazyConfig of a YAML config, as ``lazyconfig_train_net.py`` takes it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.config import LazyCall as L
from detectron2.data import (
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler
from omegaconf import DictConfig
from torch import nn, optim

from d2detr.config import load_config
from d2detr.data import build_dataset_mapper
from d2detr.errors import UserError
from d2detr.evaluation import build_evaluator
from d2detr.modeling import DETR
from d2detr.solver import build_optimizer

# Every part reads the one config, whose "opts" therefore change all of them.
_CONFIG = "${config}"
# Keys that "opts" would change in vain, with what Detectron2's script reads in their place.
_ELSEWHERE = {
    "DATALOADER.ASPECT_RATIO_GROUPING": "dataloader.train.aspect_ratio_grouping",
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": "dataloader.train.dataset.filter_empty",
    "DATALOADER.NUM_WORKERS": "dataloader.train.num_workers",
    "MODEL.DEVICE": "train.device",
    "MODEL.WEIGHTS": "train.init_checkpoint",
    "OUTPUT_DIR": "train.output_dir",
    "SEED": "train.seed",
    "SOLVER.AMP.ENABLED": "train.amp.enabled",
    "SOLVER.CHECKPOINT_PERIOD": "train.checkpointer.period",
    "SOLVER.GAMMA": "lr_multiplier.scheduler.values",
    "SOLVER.IMS_PER_BATCH": "dataloader.train.total_batch_size",
    "SOLVER.MAX_ITER": "train.max_iter",
    "SOLVER.STEPS": "lr_multiplier.scheduler.milestones",
    "SOLVER.WARMUP_FACTOR": "lr_multiplier.warmup_factor",
    "SOLVER.WARMUP_ITERS": "lr_multiplier.warmup_length",
    "SOLVER.WARMUP_METHOD": "lr_multiplier.warmup_method",
    "TEST.EVAL_PERIOD": "train.eval_period",
}
# Those that Detectron2's script has nothing for.
_OF_OUR_TRAINER = (
    "DATASETS.PREFLIGHT",
    "SOLVER.ACCUMULATE_STEPS",
    "SOLVER.AMP.DTYPE",
    "SOLVER.EMA_DECAY",
    "SOLVER.EXACT_GLOBAL_BATCH",
    "TEST.BEST_METRIC",
    "TEST.IMS_PER_BATCH",
    "TEST.LOSS_PERIOD",
    "TEST.PATIENCE",
    "TEST.REPORT",
)


class LazyParts(NamedTuple):
    """What a file of a LazyConfig holds.

    Attributes:
        config: see :func:`read_config`; other parts refer to it.
        model: see :func:`build_detr`.
        optimizer: see :func:`optimizer_of`.
        lr_multiplier: the schedule.
        dataloader: ``train``, and of the first test dataset ``test`` and ``evaluator``.
        train: what Detectron2's ``lazyconfig_train_net.py`` reads of a training.
    """

    config: DictConfig
    model: DictConfig
    optimizer: DictConfig
    lr_multiplier: DictConfig
    dataloader: dict[str, Any]
    train: dict[str, Any]


def lazy_config(config_file: str) -> LazyParts:
    """Return the LazyConfig that does what a YAML config of DETR does.

    Args:
        config_file: a path, or the name of one of d2detr's own, such as "detr_r50.yaml".

    Raises:
        UserError: the config cannot be read, or has another scheduler than that of DETR.
    """
    cfg = load_config(config_file)
    weights = cfg.MODEL.WEIGHTS or cfg.MODEL.DETR.FROZEN_WEIGHTS
    return LazyParts(
        config=L(read_config)(config_file=config_file, opts=[]),
        model=L(build_detr)(cfg=_CONFIG),
        optimizer=L(optimizer_of)(cfg=_CONFIG, params={"model": None}, lr=None, weight_decay=None),
        lr_multiplier=_schedule(cfg),
        dataloader=_loaders(cfg),
        train={
            "output_dir": cfg.OUTPUT_DIR,
            "init_checkpoint": weights,
            "max_iter": cfg.SOLVER.MAX_ITER,
            "amp": {"enabled": cfg.SOLVER.AMP.ENABLED},
            "ddp": {
                "broadcast_buffers": False,
                "find_unused_parameters": False,
                "fp16_compression": False,
            },
            "checkpointer": {"period": cfg.SOLVER.CHECKPOINT_PERIOD, "max_to_keep": 100},
            "eval_period": cfg.TEST.EVAL_PERIOD,
            "log_period": 20,
            "device": cfg.MODEL.DEVICE,
            "seed": cfg.SEED,
        },
    )


def read_config(config_file: str, opts: Sequence[Any]) -> CfgNode:
    """Read a YAML config and change those of its keys that a LazyConfig does not hold itself.

    Args:
        config_file: see :func:`lazy_config`.
        opts: keys and values in turn.

    Raises:
        UserError: a key would have no effect; names what has.
    """
    for key in opts[::2]:
        if key in _ELSEWHERE:
            raise UserError(f"config.opts: {key} has no effect here; set {_ELSEWHERE[key]}.")
        if key in _OF_OUR_TRAINER:
            raise UserError(
                f"config.opts: {key} has no effect here, for only d2detr's own trainer reads it: "
                "train the YAML config with tools/train_net.py."
            )
    return load_config(config_file, opts)


def build_detr(cfg: CfgNode, **arguments: Any) -> DETR:
    """Build the model of a config, with parts of one's own.

    Args:
        cfg: describes the whole model.
        arguments: of :class:`d2detr.modeling.DETR`, which replace what the config describes.

    Raises:
        UserError: an argument is not one of DETR's, or lacks a ``_target_``.
    """
    known = inspect.signature(DETR.__init__).parameters
    for name, value in arguments.items():
        if name not in known or isinstance(value, DictConfig):
            parts = ", ".join(key for key in known if key not in ("self", "args", "kwargs"))
            raise UserError(
                f"model.{name} is not a whole argument of DETR ({parts}); what lies within them is "
                "set by keys of the YAML config, such as config.opts=[MODEL.DETR.ENC_LAYERS,3]."
            )
    return DETR(cfg, **arguments)


def optimizer_of(
    cfg: CfgNode,
    params: dict[str, nn.Module],
    lr: float | None = None,
    weight_decay: float | None = None,
    **others: Any,
) -> optim.Optimizer:
    """Build the optimizer of a model that is given as ``params.model``, Detectron2's place for it.

    Args:
        cfg: ``SOLVER`` is read.
        params: the model, as "model".
        lr: of all but the backbone, whose rate keeps its ratio; default: ``SOLVER.BASE_LR``.
        weight_decay: default: ``SOLVER.WEIGHT_DECAY``.
        others: none.

    Raises:
        UserError: there are others, or ``params`` holds more than the model.
    """
    unknown = [*others, *(f"params.{name}" for name in params if name != "model")]
    if unknown:
        raise UserError(
            f"optimizer.{unknown[0]} has no effect: set lr, weight_decay, keys of SOLVER by "
            "config.opts=[SOLVER.BACKBONE_MULTIPLIER,0.1], or a whole optimizer of your own."
        )
    cfg = cfg.clone()
    cfg.defrost()
    if lr is not None:
        cfg.SOLVER.BASE_LR = float(lr)
    if weight_decay is not None:
        cfg.SOLVER.WEIGHT_DECAY = float(weight_decay)
    return build_optimizer(cfg, params["model"])


def _schedule(cfg: CfgNode) -> DictConfig:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "WarmupMultiStepLR":
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME is {solver.LR_SCHEDULER_NAME!r}, but a lazy config is made "
            "of WarmupMultiStepLR alone: make it of that, and replace its lr_multiplier."
        )
    steps = [step for step in solver.STEPS if step <= solver.MAX_ITER]
    return L(WarmupParamScheduler)(
        scheduler=L(MultiStepParamScheduler)(
            values=[solver.GAMMA**k for k in range(len(steps) + 1)],
            milestones=steps,
            num_updates=solver.MAX_ITER,
        ),
        warmup_factor=solver.WARMUP_FACTOR,
        warmup_length=min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0),
        warmup_method=solver.WARMUP_METHOD,
    )


def _loaders(cfg: CfgNode) -> dict[str, Any]:
    loading = cfg.DATALOADER
    loaders = {
        "train": L(build_detection_train_loader)(
            dataset=L(get_detection_dataset_dicts)(
                names=list(cfg.DATASETS.TRAIN), filter_empty=loading.FILTER_EMPTY_ANNOTATIONS
            ),
            mapper=L(build_dataset_mapper)(cfg=_CONFIG, is_train=True),
            total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
            aspect_ratio_grouping=loading.ASPECT_RATIO_GROUPING,
            num_workers=loading.NUM_WORKERS,
        )
    }
    if cfg.DATASETS.TEST:
        name = cfg.DATASETS.TEST[0]
        loaders["test"] = L(build_detection_test_loader)(
            dataset=L(get_detection_dataset_dicts)(names=name, filter_empty=False),
            mapper=L(build_dataset_mapper)(cfg=_CONFIG, is_train=False),
            num_workers=loading.NUM_WORKERS,
        )
        loaders["evaluator"] = L(build_evaluator)(
            cfg=_CONFIG, dataset_name="${..test.dataset.names}", output_dir="${train.output_dir}"
        )
    return loaders
