"""The report of runs: one HTML file that needs nothing else."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from d2detr.errors import UserError
from d2detr.files import make_folder, write_text
from d2detr.report import charts
from d2detr.report.evaluation import Evaluation, read_dataset_charts, read_evaluation
from d2detr.report.run_folder import RunFolder, read_run_folder
from d2detr.visualization.curves import PANELS
from d2detr.visualization.mistakes import KINDS

REPORT_FILE = "report.html"
# Of all runs; with plotly's script and the numbers the page stays below 10 MB.
_PICTURE_BYTES = 3_500_000

logger = logging.getLogger(__name__)


def write_report(
    paths: Sequence[str | Path],
    output: str | Path | None = None,
    *,
    dataset_name: str | None = None,
) -> Path:
    """Write what there is to see of runs into one HTML file, which works without a network.

    Args:
        paths: folders of runs, of any trainer of Detectron2 or of the original DETR.
        output: the file; default: ``report.html`` in the folder of the only run, or else in the
            current folder.
        dataset_name: that the runs were evaluated on; default: what their configs say.

    Returns:
        The file.

    Raises:
        UserError: a folder holds no run, or plotly or Jinja2 is not installed. What else is missing
            is said in the page.
    """
    script = _plotly_script()
    runs = _name(list(dict.fromkeys(map(Path, paths))))
    if output is None:
        output = (next(iter(runs.values())).path if len(runs) == 1 else Path()) / REPORT_FILE
    sections = [
        _describe(name, run, dataset_name, _PICTURE_BYTES // len(runs))
        for name, run in runs.items()
    ]
    metrics = {name: run.metrics for name, run in runs.items() if run.metrics}
    units = {run.unit for run in metrics.values()}
    curves = [
        charts.training_charts({k: x for k, x in metrics.items() if x.unit == unit})
        for unit in sorted(units)
    ]
    page = _template().render(
        title=" and ".join(runs) if len(runs) < 4 else f"{len(runs)} runs",
        runs=sections,
        curves=[chart for group in curves for chart in group],
        tables=_precision_tables(sections),
        kinds=KINDS,
        plotly=script,
        style=_read("page.css"),
        script=_read("page.js"),
    )
    make_folder(Path(output).parent)
    write_text(output, page)
    return Path(output)


def _plotly_script() -> str:
    try:
        import jinja2  # noqa: F401
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise UserError(
            f"{REPORT_FILE} needs {error.name}, which is not installed: pip install "
            "'d2detr[report]'."
        ) from error
    script: str = get_plotlyjs()
    return script


def _read(name: str) -> str:
    return (
        resources.files("d2detr.report").joinpath("page").joinpath(name).read_text(encoding="utf-8")
    )


def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = lambda value: (
        "–" if value is None or np.isnan(value) else f"{value:.1f}"
    )
    return environment.from_string(_read("page.html"))


def _name(paths: Sequence[Path]) -> dict[str, RunFolder]:
    runs = [read_run_folder(path) for path in paths]
    names = [run.path.resolve().name for run in runs]
    return {
        name if names.count(name) == 1 else str(run.path): run
        for name, run in zip(names, runs, strict=True)
    }


def _describe(
    name: str, run: RunFolder, dataset_name: str | None, picture_bytes: int
) -> dict[str, Any]:
    evaluation = read_evaluation(run, dataset_name, picture_bytes)
    datasets = read_dataset_charts(run, evaluation.dataset_name)
    return {
        "name": name,
        "path": str(run.path),
        "evaluation": evaluation,
        "datasets": datasets,
        "facts": _facts(run, evaluation),
        "config": run.cfg.dump() if run.cfg else "",
        "environment": run.environment,
        "recipe": run.recipe,
        "notes": _notes(run),
        "classes": evaluation.class_names,
    }


def _notes(run: RunFolder) -> list[str]:
    shown = {panel.names for panel in PANELS}
    parts = [run.metrics.training, *run.metrics.validation.values()] if run.metrics else []
    broken = [
        f"{name} is NaN or infinite {np.count_nonzero(~np.isfinite(curve.y))} times."
        for curves in parts
        for name, curve in curves.items()
        if name in shown and not np.isfinite(curve.y).all()
    ]
    return [*run.notes, *broken]


def _facts(run: RunFolder, evaluation: Evaluation) -> list[tuple[str, str]]:
    facts = []
    if run.metrics and run.metrics.training:
        last = max(curve.x[-1] for curve in run.metrics.training.values())
        done = last + 1 if run.metrics.unit == "iteration" else last
        facts.append((f"{run.metrics.unit}s", f"{done:,.0f}"))
    if run.seconds:
        hours, rest = divmod(round(run.seconds), 3600)
        facts.append(("time in iterations", f"{hours}:{rest // 60:02}:{rest % 60:02}"))
    if run.cfg:
        facts += [
            ("model", f"{run.cfg.MODEL.META_ARCHITECTURE}, {run.cfg.MODEL.BACKBONE.NAME}"),
            ("weights", run.cfg.MODEL.WEIGHTS or "none: trained from scratch"),
            ("trained on", ", ".join(run.cfg.DATASETS.TRAIN)),
        ]
    if evaluation.dataset_name:
        counts = f"{evaluation.num_images:,} images, {evaluation.num_objects:,} objects"
        facts.append(("evaluated on", f"{evaluation.dataset_name}: {counts}"))
    return facts


def _precision_tables(sections: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tables of AP: for boxes and for masks, a column for each run."""
    tables = []
    for kind, title in (("bbox", "boxes"), ("segm", "masks")):
        found = {
            section["name"]: precision
            for section in sections
            for precision in section["evaluation"].precisions
            if precision.kind == kind
        }
        if found:
            tables.append(
                {"title": title, "runs": found, "classes": _of_classes(list(found.values()))}
            )
    return tables


def _of_classes(found: Sequence[Any]) -> list[dict[str, Any]]:
    counts: dict[str, int] = {}
    for precision in found:
        counts |= dict(zip(precision.class_names, precision.num_objects.tolist(), strict=True))
    values = [precision.of_classes for precision in found]
    return [
        {"name": name, "objects": count, "values": [x.get(name) for x in values]}
        for name, count in counts.items()
    ]
