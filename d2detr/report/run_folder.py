"""What the folder of a run holds, as far as it can be read."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.config import CfgNode

from d2detr.config import load_config
from d2detr.datasets.places import require_existing
from d2detr.errors import UserError
from d2detr.files import read_json
from d2detr.visualization.results import check_entries
from d2detr.visualization.run_metrics import RunMetrics, read_run

RESULTS_FILE = "inference/coco_instances_results.json"
PANOPTIC_FILE = "inference/panoptic.json"
RECIPE_FILE = "recipe.json"
_LOOKED_FOR = ("metrics.json", "log.txt", RESULTS_FILE, PANOPTIC_FILE)
# The table of Detectron2's collect_env_info, which trainers of Detectron2 log first.
_ENVIRONMENT = re.compile(
    r"Environment(?: info)?:\n(-{5}.*?\n-{5}[- ]*)$", re.DOTALL | re.MULTILINE
)

Annotations = dict[Any, list[dict[str, Any]]]  # by the id of the image


@dataclass
class RunFolder:
    """A run; what it lacks is None or empty.

    Attributes:
        path: of the folder.
        metrics: what it has logged.
        cfg: its config.
        detections: of the last evaluation by image; None without one.
        panoptic: the same of panoptic segmentations.
        environment: versions and hardware, a table for people.
        recipe: "key", "value" and "reason" of each choice of a fine-tuning.
        notes: sentences that say what could not be read.
    """

    path: Path
    metrics: RunMetrics | None = None
    cfg: CfgNode | None = None
    detections: Annotations | None = None
    panoptic: Annotations | None = None
    environment: str = ""
    recipe: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """How long its iterations took together; None if it has not logged their times."""
        times = self.metrics.training.get("time") if self.metrics else None
        if times is None:
            return None
        known = np.where(np.isfinite(times.y), times.y, 0.0)
        return float(np.sum(known * np.diff(times.x, prepend=-1)))


def read_run_folder(path: str | Path) -> RunFolder:
    """Read the folder of a run, also one that is still going on.

    Raises:
        UserError: it does not exist, or holds nothing that a training or an evaluation writes.
    """
    given = require_existing(path, "Run")
    folder = given if given.is_dir() else given.parent
    if not any((folder / name).is_file() for name in _LOOKED_FOR):
        raise UserError(
            f"{folder} is not the folder of a run: it has none of {', '.join(_LOOKED_FOR)}."
        )
    run = RunFolder(folder)
    if (folder / "config.yaml").is_file():
        run.cfg = _or_note(run, lambda: load_config(str(folder / "config.yaml")))
    if any((folder / name).is_file() for name in ("metrics.json", "log.txt")):
        run.metrics = _or_note(run, lambda: read_run(given))
    run.detections = _or_note(run, lambda: read_annotations(folder / RESULTS_FILE))
    run.panoptic = _or_note(run, lambda: read_annotations(folder / PANOPTIC_FILE))
    run.recipe = _or_note(run, lambda: _read_recipe(folder / RECIPE_FILE)) or []
    log = folder / "log.txt"
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    run.environment = next(reversed(_ENVIRONMENT.findall(text)), "")
    return run


def _or_note(run: RunFolder, read: Any) -> Any:
    try:
        return read()
    except UserError as error:
        run.notes.append(str(error))
        return None


def _read_if_there(file: Path) -> Any:
    return read_json(file) if file.is_file() else None


def _read_recipe(file: Path) -> list[dict[str, Any]]:
    recipe = _read_if_there(file) or []
    keys = {"key", "value", "reason"}
    if not isinstance(recipe, list) or any(
        not isinstance(choice, dict) or keys - choice.keys() for choice in recipe
    ):
        raise UserError(f"{file} is no recipe, a list of choices with {', '.join(sorted(keys))}.")
    return recipe


def read_annotations(file: Path) -> Annotations | None:
    """Return COCO's results, or the annotations of ``panoptic.json``, by the id of the image.

    Raises:
        UserError: the file cannot be read, or holds something else. If there is none, None is
            returned.
    """
    if not file.is_file():
        return None
    content = read_json(file)
    is_panoptic = isinstance(content, dict)
    annotations = content.get("annotations") if is_panoptic else content
    check_entries(annotations, file, is_panoptic=is_panoptic)
    of_image: Annotations = defaultdict(list)
    for annotation in annotations:
        of_image[annotation["image_id"]].append(annotation)
    return of_image
