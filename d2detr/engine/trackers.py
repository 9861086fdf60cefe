"""Metrics for the services that track experiments: Weights & Biases, and MLflow."""

from __future__ import annotations

import logging
import os
import posixpath
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from detectron2.config import CfgNode
from detectron2.utils.events import EventWriter, get_event_storage

from d2detr.errors import UserError

TRACKERS = ("wandb", "mlflow")
_WINDOW = 20  # iterations whose median is written, as TensorBoard's writer of Detectron2 does
_MOST_PARAMETERS, _LONGEST_PARAMETER = 100, 500  # of a call, and characters of a value, in MLflow
_ADVICE = {
    "wandb": "Log in by `wandb login`, or set WANDB_MODE=offline.",
    "mlflow": "Set MLFLOW_TRACKING_URI to the address of a server.",
}

logger = logging.getLogger(__name__)

Log = Callable[[dict[str, float], int], None]  # values by name, and their iteration


class Tracker(EventWriter):
    """Writes metrics to a service, in any trainer of Detectron2.

    A training is worth more than its tracking: what fails is logged once, and ends the latter.

    Args:
        name: of the service.
        log: takes values and their iteration, in ascending order.
        finish: ends the service's run.
    """

    def __init__(self, name: str, log: Log, finish: Callable[[], Any]):
        self._name = name
        self._log = log
        self._finish = finish
        self._last = -1
        self._works = True

    def write(self) -> None:
        new: defaultdict[int, dict[str, float]] = defaultdict(dict)
        for name, (value, iteration) in (
            get_event_storage().latest_with_smoothing_hint(_WINDOW).items()
        ):
            if iteration > self._last:
                new[iteration][name] = value
        self._last = max([self._last, *new])
        for iteration in sorted(new):
            self._attempt(self._log, new[iteration], iteration)

    def close(self) -> None:
        self._attempt(self._finish)

    def _attempt(self, function: Callable[..., Any], *arguments: Any) -> None:
        if not self._works:
            return
        try:
            function(*arguments)
        except Exception as error:
            self._works = False
            logger.warning(f"Nothing more is written to {self._name}, which failed: {error}")


def build_trackers(cfg: CfgNode) -> list[EventWriter]:
    """Start a run in each service of ``cfg.TRACKERS``, named like the output folder.

    Raises:
        UserError: a service is unknown, its package not installed, or it cannot start.
    """
    starts = {"wandb": _start_wandb, "mlflow": _start_mlflow}
    trackers: list[EventWriter] = []
    for name in cfg.TRACKERS:
        if name not in starts:
            raise UserError(f"TRACKERS has {name!r}; choose from {', '.join(TRACKERS)}.")
        try:
            trackers.append(Tracker(name, *starts[name](cfg)))
        except ImportError as error:
            raise UserError(
                f"TRACKERS has {name!r}, which needs {error.name}: pip install 'd2detr[{name}]'."
            ) from error
        except Exception as error:
            raise UserError(
                f"TRACKERS has {name!r}, which cannot start: {str(error).strip(' .')}. "
                f"{_ADVICE[name]} TRACKERS '()' does without it."
            ) from error
    return trackers


def _start_wandb(cfg: CfgNode) -> tuple[Log, Callable[[], Any]]:
    import wandb

    run = wandb.init(
        dir=cfg.OUTPUT_DIR,
        name=os.environ.get("WANDB_NAME", _run_name(cfg)),
        config=yaml.safe_load(cfg.dump()),
    )
    return lambda values, iteration: run.log(values, step=iteration), run.finish


def _start_mlflow(cfg: CfgNode) -> tuple[Log, Callable[[], Any]]:
    import mlflow

    mlflow.start_run(run_name=os.environ.get("MLFLOW_RUN_NAME", _run_name(cfg)))
    parameters = [(name, str(x)[:_LONGEST_PARAMETER]) for name, x in _flat(cfg)]
    for start in range(0, len(parameters), _MOST_PARAMETERS):
        mlflow.log_params(dict(parameters[start : start + _MOST_PARAMETERS]))

    def log(values: dict[str, float], iteration: int) -> None:
        mlflow.log_metrics({_mlflow_name(x): value for x, value in values.items()}, iteration)

    return log, mlflow.end_run


def _mlflow_name(name: str) -> str:
    """A name that MLflow takes: of few characters, and like a path within a folder."""
    return posixpath.normpath(re.sub(r"[^\w\-. :/]", "_", name)).replace("../", "").lstrip("/")


def _flat(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _run_name(cfg: CfgNode) -> str:
    return Path(cfg.OUTPUT_DIR).resolve().name
