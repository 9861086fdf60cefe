"""The proof that an exported file computes what the PyTorch model does."""

from __future__ import annotations

import copy
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from d2detr.errors import UserError
from d2detr.export import runner
from d2detr.modeling import DETR

# Largest differences of scores, and of boxes relative to the longer side of the image; and the
# share of pixels that may belong to another object. Half precision has 11 bits, and bfloat16 8.
BOUNDS = {"fp32": 1e-3, "fp16": 2e-2, "bf16": 2e-1}

# Runs where nothing of the exporting process is: no d2detr, no Detectron2, and for ONNX no torch.
_SCRIPT = """
import importlib.util, sys
from pathlib import Path
import numpy as np
_, runner_path, model_path, cases_path, results_path = sys.argv
spec = importlib.util.spec_from_file_location("run_detr", runner_path)
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
model = runner.ExportedModel(model_path)
cases = np.load(cases_path)
results = {}
for name in sorted({key.split("/")[0] for key in cases}):
    inputs = [cases[f"{name}/{key}"] for key in ("images", "sizes", "output_sizes")]
    for key, value in model.compute(*inputs).items():
        results[f"{name}/{key}"] = value
    for index, found in enumerate(model.detect(*inputs)):
        if "masks" in found:
            results[f"{name}/{index}/pred_masks"] = found["masks"]
        if "panoptic_seg" in found:
            results[f"{name}/{index}/panoptic_seg"] = found["panoptic_seg"][0]
needless = {"d2detr", "detectron2"} | ({"torch"} if model_path.endswith(".onnx") else set())
assert not needless & set(sys.modules), needless & set(sys.modules)
status = Path("/proc/self/status")  # getrusage would tell the peak of the process that forked
lines = status.read_text().splitlines() if status.exists() else ["VmHWM: 0"]
results["peak_kib"] = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
np.savez(results_path, **results)
"""


@dataclass(frozen=True)
class Case:
    """A batch: ``images`` (B, 3, H, W) uint8, ``sizes`` and ``output_sizes`` (B, 2) int64."""

    images: np.ndarray
    sizes: np.ndarray
    output_sizes: np.ndarray


@dataclass(frozen=True)
class Difference:
    """The largest differences of a case.

    Attributes:
        score: of a detection.
        box: of a side, relative to the longer side of the image.
        masks: share of pixels that belong to another object; None without masks.
    """

    score: float
    box: float
    masks: float | None

    @property
    def largest(self) -> float:
        return max(self.score, self.box, self.masks or 0.0)


def make_cases(picture: np.ndarray, facts: dict[str, Any]) -> dict[str, Case]:
    """Make batches of several sizes out of a picture (height, width, 3) uint8 in RGB.

    One image as the model was made for; two in a batch, of which each is padded; three that are
    small; and one that is as narrow as images get.
    """
    short, longest = facts["resize"]
    short = short or min(picture.shape[:2])
    middle = min(longest, short * 4 // 3)
    shapes = {
        "one image": [(short, middle)],
        "padded": [(short, short * 3 // 4), (short * 2 // 3, middle)],
        "three small": [(short // 2, short // 2 + 5 * index) for index in range(3)],
        "narrow": [(max(32, short // 16), longest)],
    }
    cases = {}
    for name, sizes in shapes.items():
        resized = [
            np.asarray(Image.fromarray(np.roll(picture, 17 * index, 1)).resize(size[::-1]))
            for index, size in enumerate(sizes)
        ]
        images, sizes_array = runner.pad(resized, facts["channels"])
        cases[name] = Case(images, sizes_array, sizes_array * 3 // 2)
    return cases


def run_alone(path: Path, cases: dict[str, Case]) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """Run a file by the runner alone, in a process of its own.

    Returns:
        The outputs by case; and the process's peak memory in MiB.

    Raises:
        UserError: it does not run.
    """
    with tempfile.TemporaryDirectory() as folder:
        inputs, outputs = Path(folder, "cases.npz"), Path(folder, "results.npz")
        arrays = {
            f"{name}/{key}": x for name, case in cases.items() for key, x in vars(case).items()
        }
        np.savez(inputs, **arrays)
        files = [str(Path(runner.__file__)), str(path), str(inputs), str(outputs)]
        # -I: neither this folder nor PYTHONPATH.
        process = subprocess.run(
            [sys.executable, "-I", "-W", "ignore", "-c", _SCRIPT, *files],
            capture_output=True,
            text=True,
        )
        if process.returncode:
            raise UserError(f"{path} was written, but does not run: {process.stderr.strip()}")
        with np.load(outputs) as results:
            by_case: dict[str, dict[str, np.ndarray]] = {name: {} for name in cases}
            for key in results:
                name, _, output = key.partition("/")
                if output:
                    by_case[name][output] = results[key]
            return by_case, int(results["peak_kib"]) / 1024


def run_pytorch(model: DETR, case: Case) -> dict[str, np.ndarray]:
    """Run the PyTorch model; returns what :func:`run_alone` does for a case."""
    batch = [
        {
            "image": torch.from_numpy(image[:, :height, :width].copy()),
            "height": int(output[0]),
            "width": int(output[1]),
        }
        for image, (height, width), output in zip(
            case.images, case.sizes, case.output_sizes, strict=True
        )
    ]
    boxes_alone = copy.copy(model)
    boxes_alone._modules = {**model._modules, "mask_head": None}
    boxes_alone.score_threshold = 0.0
    found = [output["instances"] for output in boxes_alone.inference(batch)]
    results = {
        "boxes": torch.stack([instances.pred_boxes.tensor for instances in found]),
        "scores": torch.stack([instances.scores for instances in found]),
        "classes": torch.stack([instances.pred_classes for instances in found]),
    }
    if model.mask_head is not None:
        for index, output in enumerate(model.inference(batch)):
            instances = output["instances"]
            order = instances.scores.argsort(descending=True, stable=True)
            results[f"{index}/pred_masks"] = instances.pred_masks[order]
            if "panoptic_seg" in output:
                results[f"{index}/panoptic_seg"] = output["panoptic_seg"][0]
    return {name: values.cpu().numpy() for name, values in results.items()}


def compare(
    expected: dict[str, np.ndarray], found: dict[str, np.ndarray], case: Case, bound: float
) -> Difference:
    """Compare the outputs of a case.

    Detections whose scores are closer than ``bound`` may have changed places, also with one that
    the limit of detections left out.
    """
    score = box = 0.0
    for index, output_size in enumerate(case.output_sizes):
        theirs, ours = (
            {name: outputs[name][index] for name in ("boxes", "scores", "classes")}
            for outputs in (expected, found)
        )
        ranked = (np.sort(x["scores"]) for x in (theirs, ours))
        score = max(score, float(np.abs(np.subtract(*ranked)).max()))
        # (N, N) between each detection and those that it may be.
        distance = np.abs(theirs["boxes"][:, None] - ours["boxes"]).max(-1) / output_size.max()
        is_other = theirs["classes"][:, None] != ours["classes"]
        is_other |= np.abs(theirs["scores"][:, None] - ours["scores"]) > bound
        nearest = np.where(is_other, np.inf, distance).min(1)
        is_left_out = np.isinf(nearest) & (theirs["scores"] <= theirs["scores"].min() + bound)
        box = max(box, float(nearest[~is_left_out].max()))
    masks = [name for name in expected if "/" in name]
    if not masks:
        return Difference(score, box, None)
    shares = [
        float((expected[name] != found[name]).mean()) if expected[name].size else 0.0
        for name in masks
        if expected[name].shape == found[name].shape
    ]
    return Difference(score, box, max(shares) if len(shares) == len(masks) else np.inf)
