"""Eight-bit integers in place of floats, and what they cost in AP."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError
from d2detr.evaluation.coco_evaluation import FastCOCOEvaluator
from d2detr.export import runner
from d2detr.predict.predictor import read_rgb

# What is quantised: the more, the faster and the less exact.
PARTS = {"all": ("Conv", "MatMul", "Gemm"), "backbone": ("Conv",)}
MOST_AP_LOST = 1.0


@dataclass(frozen=True)
class Accuracy:
    """Box AP of a dataset, 0 to 100, before quantisation and with each of the parts quantised."""

    before: float
    after: dict[str, float]
    chosen: str

    def __str__(self) -> str:
        after = ", ".join(f"{ap:.1f} with {part} in int8" for part, ap in self.after.items())
        return f"AP {self.before:.1f} in fp32; {after}. Written: {self.chosen}."


def quantize(path: Path, dataset: str, num_calibration: int, num_evaluation: int = 0) -> Accuracy:
    """Replace an ONNX file by one of int8, as much of it as keeps AP within a point.

    Args:
        path: of the file, fp32.
        dataset: a registered dataset or ``auto:PATH:SPLIT``; its first images calibrate.
        num_calibration: how many.
        num_evaluation: images to measure AP on; 0 takes all.

    Raises:
        UserError: no part keeps AP; the file is then left as it is.
    """
    records = load_dataset(dataset)
    evaluated = records[: num_evaluation or None]
    before, after = average_precision(path, dataset, evaluated), {}
    for part, operators in PARTS.items():
        quantised = path.with_name(f".{part}-{path.name}")
        try:
            _quantize(path, quantised, records[:num_calibration], operators)
            after[part] = average_precision(quantised, dataset, evaluated)
            if after[part] >= before - MOST_AP_LOST:
                quantised.replace(path)
                return Accuracy(before, after, part)
        finally:
            quantised.unlink(missing_ok=True)
    raise UserError(
        f"int8 loses more than {MOST_AP_LOST} AP on {dataset}: {before:.1f} in fp32, "
        + ", ".join(f"{ap:.1f} with {part} in int8" for part, ap in after.items())
        + f". {path} is written in fp32. More --calibration-images may help."
    )


def average_precision(path: Path, dataset: str, records: Sequence[dict[str, Any]]) -> float:
    """Return the box AP, 0 to 100, of an exported model on images of a dataset."""
    model = runner.ExportedModel(path, num_threads=torch.get_num_threads())
    evaluator = FastCOCOEvaluator(dataset, ("bbox",), distributed=False)
    evaluator.reset()
    for record, inputs in zip(records, _batches(records, model.facts), strict=True):
        outputs = model.compute(**inputs)
        instances = Instances(tuple(inputs["output_sizes"][0].tolist()))
        instances.pred_boxes = Boxes(torch.from_numpy(outputs["boxes"][0]))
        instances.scores = torch.from_numpy(outputs["scores"][0])
        instances.pred_classes = torch.from_numpy(outputs["classes"][0])
        evaluator.process([record], [{"instances": instances}])
    with contextlib.redirect_stdout(io.StringIO()):
        results = evaluator.evaluate([record["image_id"] for record in records])
    return results["bbox"]["AP"]


def _quantize(
    path: Path, output: Path, records: Sequence[dict[str, Any]], operators: Sequence[str]
) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    facts = runner.ExportedModel(path).facts

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = _batches(records, facts)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    quantize_static(
        path,
        output,
        Reader(),
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=list(operators),
        per_channel=True,
        reduce_range=True,  # 7 bits of weights, as products overflow where there is no VNNI
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    model = onnx.load(output)
    facts = {**facts, "precision": "int8"}
    onnx.helper.set_model_props(model, {runner.FACTS: json.dumps(facts)})
    onnx.save(model, output)


def _batches(
    records: Sequence[dict[str, Any]], facts: dict[str, Any]
) -> Iterator[dict[str, np.ndarray]]:
    """Return each image of a dataset as the model takes it."""
    for record in records:
        rgb = read_rgb(record["file_name"])
        images, sizes = runner.pad([runner.resize(rgb, *facts["resize"])], facts["channels"])
        output_sizes = np.array([rgb.shape[:2]], np.int64)
        yield {"images": images, "sizes": sizes, "output_sizes": output_sizes}
