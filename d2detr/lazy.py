"""Detectron2's LazyConfig of a YAML config, as ``lazyconfig_train_net.py`` takes it."""

from __future__ import annotations

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


class LazyParts(NamedTuple):
    """What a file of a LazyConfig holds.

    Attributes:
        config: reads the YAML file and then "opts", keys and values in turn; other parts refer to
            it.
        model: builds a :class:`d2detr.modeling.DETR`, whose further arguments may be added.
        optimizer: is given the model as ``params.model``.
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
        config=L(load_config)(config_file=config_file, opts=[]),
        model=L(DETR)(cfg=_CONFIG),
        optimizer=L(optimizer_of)(cfg=_CONFIG, params={"model": None}),
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


def optimizer_of(cfg: CfgNode, params: dict[str, nn.Module]) -> optim.Optimizer:
    """Build the optimizer of a model that is given as ``params.model``, Detectron2's place for it.

    Args:
        cfg: ``SOLVER`` is read.
        params: the model, as "model".
    """
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
