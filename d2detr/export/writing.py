"""The formats of an exported model: each captures the network, and carries its description."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from d2detr.errors import UserError
from d2detr.export.network import ExportedDETR
from d2detr.export.runner import FACTS

INPUTS = ("images", "sizes", "output_sizes")
# The newest whose operators onnxruntime and OpenVINO both compute rightly: the attention of opset
# 23 refuses a mask that is the same for all queries in onnxruntime 1.32.
OPSET = 18


def write_onnx(network: ExportedDETR, path: Path, facts: dict[str, Any]) -> None:
    """Write ONNX; weights of more than 2 GB go into a file beside it, as the format demands.

    Raises:
        UserError: the packages of the extra "export" are not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"Exporting ONNX needs {error.name}, which is not installed: "
            "pip install 'd2detr[export]'."
        ) from error
    with _quiet():
        program = torch.onnx.export(
            _capture(network),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=network.outputs,
            verbose=False,
        )
    program.model.metadata_props[FACTS] = json.dumps({**facts, "opset": OPSET})
    program.save(str(path))


def write_torch_export(network: ExportedDETR, path: Path, facts: dict[str, Any]) -> None:
    """Write a program of torch.export."""
    torch.export.save(_capture(network), path, extra_files={FACTS: json.dumps(facts)})


def write_torchscript(network: ExportedDETR, path: Path, facts: dict[str, Any]) -> None:
    """Write a trace, in which the masks of all queries are computed."""
    with torch.no_grad(), warnings.catch_warnings():
        # Of every number that becomes a constant, such as how many queries there are.
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", "`torch.jit.* is deprecated")
        traced = torch.jit.trace(network, example_inputs(), check_trace=False)
        torch.jit.save(traced, path, _extra_files={FACTS: json.dumps(facts)})


FORMATS: dict[str, tuple[str, Callable[[ExportedDETR, Path, dict[str, Any]], None]]] = {
    "onnx": (".onnx", write_onnx),
    "torch_export": (".pt2", write_torch_export),
    "torchscript": (".ts", write_torchscript),
}


def example_inputs() -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs whose sizes are all different, so that none is taken for another."""
    images = torch.zeros(2, 3, 160, 224, dtype=torch.uint8)
    sizes = torch.tensor([[160, 200], [130, 224]])
    return images, sizes, 2 * sizes


def _capture(network: ExportedDETR) -> torch.export.ExportedProgram:
    any_size = torch.export.Dim.DYNAMIC
    batch = {0: any_size}
    return torch.export.export(
        network,
        example_inputs(),
        dynamic_shapes={
            "images": {0: any_size, 2: any_size, 3: any_size},
            "sizes": batch,
            "output_sizes": batch,
        },
        # What is known only of the sizes that come is checked when they come.
        prefer_deferred_runtime_asserts_over_guards=True,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what the exporter says of every operator that it does not simplify."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
