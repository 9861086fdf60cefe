"""What trainings have logged, read from the files of Detectron2 and of the original DETR."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from d2detr.datasets.places import require_existing
from d2detr.errors import UserError

_FILES = ("metrics.json", "log.txt")
# Of the original's test_coco_eval_*, the first of its twelve numbers is AP.
_ORIGINAL_EVALUATIONS = {"bbox": "bbox/AP", "masks": "segm/AP"}
_ORIGINAL_NAMES = {"loss": "total_loss", "cardinality_error_unscaled": "cardinality_error"}

logger = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass
class Curve:
    """One number of a run over time, in ascending order of ``x``.

    Attributes:
        x: numbers of iterations, or epochs that were done.
        y: the numbers; some may be NaN or infinite.
    """

    x: np.ndarray
    y: np.ndarray


@dataclass
class RunMetrics:
    """Everything that a run has logged.

    Attributes:
        path: the file it was read from.
        unit: of all ``x``: "iteration" or "epoch".
        training: curves by the names of our trainer, such as "loss_ce", "loss_ce_0" and "lr".
        validation: by dataset ("" where the file does not name it) and name: losses like those of
            training, and "bbox/AP", "segm/AP", "panoptic_seg/PQ" and the like in percent.
    """

    path: Path
    unit: str
    training: dict[str, Curve] = field(default_factory=dict)
    validation: dict[str, dict[str, Curve]] = field(default_factory=dict)

    def in_epochs(self, iterations_per_epoch: float) -> RunMetrics:
        """Return the run with epochs instead of iterations."""

        def convert(curves: dict[str, Curve]) -> dict[str, Curve]:
            return {name: Curve(x.x / iterations_per_epoch, x.y) for name, x in curves.items()}

        validation = {dataset: convert(curves) for dataset, curves in self.validation.items()}
        return RunMetrics(self.path, "epoch", convert(self.training), validation)


def read_run(path: str | Path) -> RunMetrics:
    """Read what a run has logged so far; it may still be going on.

    Args:
        path: a run's folder, or its ``metrics.json`` (of any trainer of Detectron2) or ``log.txt``
            (of the original DETR).

    Raises:
        UserError: there is no such file, or nothing in it that a training logs.
    """
    file = _find_file(require_existing(path, "Run"))
    records = list(_read_records(file))
    if any("iteration" in record for record in records):
        return _from_detectron2(file, records)
    if any("epoch" in record for record in records):
        return _from_original(file, records)
    raise UserError(
        f"{file} holds no metrics of a training: expected are lines of JSON with an 'iteration', "
        "as Detectron2 writes them to metrics.json, or with an 'epoch', as the original DETR "
        "writes them to log.txt."
    )


def _find_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = [path / name for name in _FILES if (path / name).is_file()]
    if not files:
        raise UserError(
            f"{path} is not the folder of a run: it has neither metrics.json (Detectron2) nor "
            "log.txt (the original DETR)."
        )
    return files[0]


def _read_records(file: Path) -> Iterator[Record]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}.") from error
    if not lines:
        raise UserError(f"{file} is empty: the run has logged nothing yet.")
    broken = []
    for number, line in enumerate(lines, start=1):
        try:
            # Whole numbers may be too long to be made floats later.
            record = json.loads(line, parse_int=float) if line.strip() else {}
        except ValueError:
            record = None
        if isinstance(record, dict):
            yield record
        else:
            broken.append(number)
    # The last line may still be being written.
    if broken and broken != [len(lines)] and len(broken) < len(lines):
        numbers = ", ".join(map(str, broken[:5])) + (" ..." if len(broken) > 5 else "")
        logger.warning(f"{file}: {len(broken)} lines are not whole and left out ({numbers}).")


def _from_detectron2(file: Path, records: Iterable[Record]) -> RunMetrics:
    points = _Points()
    for record in records:
        iteration = record.get("iteration")
        if _is_number(iteration) and math.isfinite(iteration):
            for name, value in record.items():
                if name != "iteration" and _is_number(value):
                    points.add(_split_name(name), iteration, value)
    return points.as_run(file, "iteration")


def _from_original(file: Path, records: Iterable[Record]) -> RunMetrics:
    points = _Points()
    for record in records:
        epoch = record.get("epoch")
        if not (_is_number(epoch) and math.isfinite(epoch)):
            continue
        for key, value in _original_values(record):
            is_training = key.startswith("train_")
            name = key.removeprefix("train_").removeprefix("test_")
            # The numbers of training are means over an epoch, so they belong to its middle.
            x = epoch + (0.5 if is_training else 1)
            place = (None if is_training else "", _ORIGINAL_NAMES.get(name, name))
            points.add(place, x, value)
    return points.as_run(file, "epoch")


def _original_values(record: Record) -> Iterator[tuple[str, float]]:
    for kind, name in _ORIGINAL_EVALUATIONS.items():
        evaluation = record.get(f"test_coco_eval_{kind}")
        if isinstance(evaluation, list) and evaluation and _is_number(evaluation[0]):
            yield f"test_{name}", 100 * evaluation[0]
    quality = record.get("test_PQ_all")
    if isinstance(quality, dict) and _is_number(quality.get("pq")):
        yield "test_panoptic_seg/PQ", 100 * quality["pq"]
    for key, value in record.items():
        if key.startswith(("train_", "test_")) and _is_number(value):
            yield key, value


def _is_number(value: Any) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


_Place = tuple[str | None, str]  # the dataset of a validation, or None in training; and the name


def _split_name(name: str) -> _Place:
    """Take the dataset from "DATASET/loss_ce", "bbox/AP" or "DATASET/bbox/AP"."""
    *parents, last = name.split("/")
    if parents and last.startswith(("AP", "PQ", "SQ", "RQ", "AR", "mIoU")):
        return "/".join(parents[:-1]), f"{parents[-1]}/{last}"
    is_loss = last.startswith(("loss", "total_loss")) or last.endswith("_error")
    if parents and is_loss:
        return "/".join(parents), last
    return None, name


class _Points:
    """Points in the order of the file, of which a resumed run replaces those that it repeats."""

    def __init__(self) -> None:
        self._points: dict[_Place, list[tuple[float, float, int]]] = {}
        self._part = 0

    def add(self, place: _Place, x: float, y: float) -> None:
        points = self._points.setdefault(place, [])
        if points and x <= points[-1][0]:
            # Within one part, lines may be in any order, but each curve goes on.
            if points[-1][2] == self._part:
                self._part += 1
            for others in self._points.values():
                others[:] = [old for old in others if old[2] == self._part or old[0] < x]
        points.append((x, y, self._part))

    def as_run(self, file: Path, unit: str) -> RunMetrics:
        run = RunMetrics(file, unit)
        for (dataset, name), points in self._points.items():
            if points:
                x, y, _ = np.array(points, dtype=float).T
                curves = run.training if dataset is None else run.validation.setdefault(dataset, {})
                curves[name] = Curve(x, y)
        if not (run.training or run.validation):
            raise UserError(f"{file} holds no numbers yet.")
        return run
