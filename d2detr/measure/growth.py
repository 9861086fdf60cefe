"""How a model's cost grows with its queries, its images' size and their number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabulate import tabulate

from d2detr.measure.flops import count_multiply_adds
from d2detr.measure.networks import our_inference
from d2detr.measure.parts import our_losses
from d2detr.measure.timing import Step, Timing, alternate, describe_machine
from d2detr.measure.workload import Workload


@dataclass(frozen=True)
class Sample:
    """One setting of what grows.

    Attributes:
        value: queries, images, or the pixels of an image.
        label: the value for people.
        seconds: median of a step.
        multiply_adds: of a step of inference; None of the losses, which multiply next to nothing.
    """

    value: int
    label: str
    seconds: float
    multiply_adds: int | None = None

    def per_unit(self) -> float:
        """Seconds by multiply-adds or, where these are not counted, by value."""
        return self.seconds / (self.multiply_adds or self.value)


def measure_growth(
    settings: dict[str, Any],
    *,
    queries: Sequence[int],
    sizes: Sequence[tuple[int, int]],
    batches: Sequence[int],
    rounds: int,
) -> dict[str, list[Sample]]:
    """Time steps of inference, and of matching and losses, while one thing at a time grows.

    Args:
        settings: arguments of :class:`Workload`, which hold for all that does not grow.
        queries: numbers of object queries.
        sizes: heights and widths in pixels.
        batches: numbers of images.
        rounds: timed steps of each, in turn.

    Returns:
        Samples by what grew; "queries in the losses" are those of matching and losses.
    """
    more = settings.get("opts", ())
    by_queries = {n: {"opts": (*more, "MODEL.DETR.NUM_OBJECT_QUERIES", str(n))} for n in queries}
    by_size = {height * width: {"size": (height, width)} for height, width in sizes}
    by_batch = {n: {"batch": n} for n in batches}
    labels = {height * width: f"{height}x{width}" for height, width in sizes}
    series: dict[str, tuple[dict[int, dict[str, Any]], Callable[[Workload], Step]]] = {
        "queries": (by_queries, our_inference),
        "image": (by_size, our_inference),
        "batch": (by_batch, our_inference),
        "queries in the losses": (by_queries, our_losses),
    }
    grown = {}
    for name, (changes, build) in series.items():
        workloads = {n: Workload(**(settings | change)) for n, change in changes.items()}
        steps = {str(n): build(workload) for n, workload in workloads.items()}
        device = next(iter(workloads.values())).device
        seconds = alternate(steps, rounds=rounds, warmup=1, device=device)
        grown[name] = [
            Sample(
                n,
                labels.get(n, str(n)) if changes is by_size else str(n),
                Timing.of(seconds[str(n)]).median,
                _count(workload) if build is our_inference else None,
            )
            for n, workload in workloads.items()
        ]
    return grown


def _count(workload: Workload) -> int:
    analysis = count_multiply_adds(workload.build_model(), workload.images(workload.batch))
    return int(analysis.total())


def format_growth(grown: dict[str, list[Sample]]) -> str:
    """Make a table for each thing that grew; the last column says whether time grows faster."""
    parts = []
    for name, samples in grown.items():
        first = samples[0]
        unit = "query" if first.multiply_adds is None else "multiply-add"
        rows = [
            [
                sample.label,
                1000 * sample.seconds,
                None if sample.multiply_adds is None else sample.multiply_adds / 1e9,
                sample.per_unit() / first.per_unit(),
            ]
            for sample in samples
        ]
        headers = [name, "ms", "G multiply-adds", f"time per {unit}, beside the first"]
        parts.append(tabulate(rows, headers, floatfmt=("", ".1f", ".1f", ".2f")))
    return "\n\n".join(parts)


def draw_growth(grown: dict[str, list[Sample]], file: str | Path) -> None:
    """Draw the times, dashed what they would be if each multiply-add or query took as long."""
    from matplotlib.figure import Figure  # matplotlib is slow to import

    figure = Figure(figsize=(3.2 * len(grown), 3.4), dpi=110, layout="constrained")
    for axes, (name, samples) in zip(figure.subplots(1, len(grown)), grown.items(), strict=True):
        places = range(len(samples))
        expected = [
            1000 * samples[0].per_unit() * (sample.multiply_adds or sample.value)
            for sample in samples
        ]
        axes.plot(places, [1000 * sample.seconds for sample in samples], "o-", label="measured")
        axes.plot(places, expected, "--", color="gray", label="expected of the first")
        axes.set_xticks(places, [sample.label for sample in samples], rotation=20)
        axes.set(xlabel=name, ylabel="ms", ylim=(0, None))
        axes.grid(alpha=0.25)
    axes.legend()
    figure.savefig(file)


def growth_report(settings: dict[str, Any], grown: dict[str, list[Sample]]) -> dict[str, Any]:
    """Return everything that was measured, as plain values for JSON."""
    workload = Workload(**settings)
    return {
        "machine": describe_machine(workload.device),
        "workload": workload.description(),
        "grown": {name: [asdict(sample) for sample in samples] for name, samples in grown.items()},
    }
