"""Time and memory of an exported file beside those of the PyTorch model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from d2detr.export import runner
from d2detr.export.proof import make_cases, run_alone
from d2detr.measure.timing import Step, Timing, alternate, measure_memory
from d2detr.predict import Predictor


@dataclass(frozen=True)
class Cost:
    """What a detection in one image costs, from its pixels to its boxes.

    Attributes:
        seconds: by contender, in turn in one process.
        peak_mib: of a process that does nothing else, by contender.
    """

    seconds: dict[str, Timing]
    peak_mib: dict[str, float]


def measure_cost(predictor: Predictor, path: Path, picture: np.ndarray, rounds: int = 5) -> Cost:
    """Measure the PyTorch model and the file, with as many threads as torch has.

    Args:
        predictor: of the export.
        path: the file.
        picture: (height, width, 3) uint8 in RGB.
        rounds: timed runs of each.
    """
    exported = runner.ExportedModel(path, num_threads=torch.get_num_threads())
    steps = {"PyTorch": lambda: predictor(picture), "exported": lambda: exported([picture])}
    seconds = alternate(steps, rounds=rounds, warmup=1, device=torch.device("cpu"))
    _, peak = run_alone(path, {"one": make_cases(picture, exported.facts)["one image"]})
    memory = {"PyTorch": measure_memory(_pytorch_step, predictor, picture).peak, "exported": peak}
    return Cost({name: Timing.of(values) for name, values in seconds.items()}, memory)


def faster_runtime(
    path: Path, picture: np.ndarray, rounds: int = 5
) -> tuple[str, dict[str, float]]:
    """Return the faster of onnxruntime and OpenVINO, and the median seconds of both."""
    threads = torch.get_num_threads()
    models = {
        name: runner.ExportedModel(path, name, threads) for name in ("onnxruntime", "openvino")
    }
    steps: dict[str, Step] = {
        name: lambda model=model: model([picture]) for name, model in models.items()
    }
    seconds = alternate(steps, rounds=rounds, warmup=1, device=torch.device("cpu"))
    medians = {name: Timing.of(values).median for name, values in seconds.items()}
    return min(medians, key=medians.__getitem__), medians


def _pytorch_step(predictor: Predictor, picture: np.ndarray) -> Step:
    return lambda: predictor(picture)
