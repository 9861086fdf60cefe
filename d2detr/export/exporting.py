"""From a trained model to a file that runs elsewhere, and the proof that it does."""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from d2detr.errors import UserError
from d2detr.export import runner
from d2detr.export.network import ExportedDETR
from d2detr.export.proof import Difference, compare, make_cases, run_alone, run_pytorch
from d2detr.export.writing import FORMATS
from d2detr.files import make_folder, replacing, replacing_in
from d2detr.modeling import DETR
from d2detr.predict import Predictor

RUNNER_FILE = "run_detr.py"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def export_model(
    predictor: Predictor, output: str | Path, *, format: str = "onnx", precision: str = "fp32"
) -> Path:
    """Write a model to a file, and the program that runs it beside it.

    Args:
        predictor: holds the model, its classes and its threshold.
        output: the folder to write to.
        format: one of :data:`FORMATS`.
        precision: of the weights and most of the computation, one of :data:`DTYPES`.

    Returns:
        The path of the model.

    Raises:
        UserError: the model or the combination cannot be exported, or files cannot be written.
    """
    model = predictor.model
    if not isinstance(model, DETR):
        raise UserError(
            f"{type(model).__name__} is no DETR of this project and cannot be exported."
        )
    if getattr(model.backbone, "padding_constraints", {}).get("square_size"):
        raise UserError("Backbones that need square images cannot be exported.")
    if (format, precision) == ("onnx", "bf16"):
        raise UserError(
            "onnxruntime computes nothing in bfloat16 on a CPU: choose --precision fp16 or int8, "
            "or --format torch_export."
        )
    network = ExportedDETR(model, predictor.score_threshold, DTYPES[precision])
    facts = describe(predictor, network, precision)
    suffix, write = FORMATS[format]
    output = make_folder(output)
    with replacing_in(output) as partial:
        write(network, partial / f"model{suffix}", facts)
        shutil.copy(runner.__file__, partial / RUNNER_FILE)
    return output / f"model{suffix}"


def choose_runtime(path: Path, runtime: str) -> None:
    """Make the runner of an ONNX file use a runtime, "onnxruntime" or "openvino"."""
    import onnx

    model = onnx.load(path)
    facts = {**runner.ExportedModel(path).facts, "runtime": runtime}
    onnx.helper.set_model_props(model, {runner.FACTS: json.dumps(facts)})
    with replacing(path) as partial:
        onnx.save(model, partial)


def describe(predictor: Predictor, network: ExportedDETR, precision: str) -> dict[str, Any]:
    """Return what a file tells of itself."""
    cfg, model = predictor.cfg, predictor.model
    categories = predictor.categories or [
        {"id": number, "name": str(number)} for number in range(model.num_classes)
    ]
    packages = ("d2detr", "torch", "detectron2", "onnx", "onnxscript", "onnxruntime")
    facts = {
        "classes": [category["name"] for category in categories],
        "categories": categories if predictor.categories else None,
        "score_threshold": predictor.score_threshold,
        "resize": [cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST],
        "channels": cfg.INPUT.FORMAT,
        "outputs": network.outputs,
        "precision": precision,
        "versions": {name: version for name in packages if (version := _version(name))},
        "config": cfg.dump(),
    }
    if model.mask_head is not None:
        facts["mask_threshold"] = model.segmenter.mask_threshold
    if network.is_panoptic:
        facts["thing_classes"] = sorted(model.segmenter.thing_classes)
        facts["segment_area"] = model.segmenter.segment_area
    return facts


def prove(
    predictor: Predictor, path: Path, picture: np.ndarray, bound: float
) -> tuple[dict[str, Difference], float]:
    """Compare a file with the PyTorch model on several batches, each in a process of its own.

    Args:
        predictor: of the export.
        path: the file.
        picture: (height, width, 3) uint8 in RGB, which the batches are made of.
        bound: the largest difference allowed; see :data:`BOUNDS`.

    Returns:
        The differences by the name of the batch, and the peak memory in MiB of the process that
        ran the file.
    """
    cases = make_cases(picture, runner.ExportedModel(path).facts)
    found, peak = run_alone(path, cases)
    differences = {
        name: compare(run_pytorch(predictor.model, case), found[name], case, bound)
        for name, case in cases.items()
    }
    return differences, peak


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
