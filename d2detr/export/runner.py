"""Runs a model that tools/export_model.py wrote: python run_detr.py model.onnx image.jpg.

This file stands alone. It needs NumPy and Pillow; and onnxruntime or OpenVINO for .onnx, or torch
for .pt2 (torch.export) and .ts (TorchScript).
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

FACTS = "d2detr"  # the key of the description inside a file


class ExportedModel:
    """A detector from a file.

    Args:
        path: of the file; its suffix tells the format.
        runtime: "onnxruntime" or "openvino" for .onnx; default: the one that was faster when the
            file was written, or onnxruntime.
        num_threads: 0 leaves it to the runtime.

    Attributes:
        facts: what the file says of itself: classes, threshold, sizes, versions and config.

    Raises:
        ValueError: the file is none of an exported DETR.
    """

    def __init__(self, path: str | Path, runtime: str | None = None, num_threads: int = 0):
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"There is no exported model {path}.")
        if path.suffix not in _LOADERS:
            raise ValueError(
                f"{path} is no exported model: its name ends in none of {[*_LOADERS]}."
            )
        self._compute, self.facts = _LOADERS[path.suffix](path, runtime, num_threads)

    def __call__(
        self, images: Sequence[np.ndarray], score_threshold: float | None = None
    ) -> list[dict[str, Any]]:
        """Detect objects in images, each an array (height, width, 3) of uint8 in RGB.

        They are resized and passed together, the smaller ones padded.

        Args:
            images: B of them, of any sizes.
            score_threshold: detections below it are left out; default: that of the export.

        Returns:
            See :meth:`detect`.
        """
        resized = [resize(image, *self.facts["resize"]) for image in images]
        originals = np.array([image.shape[:2] for image in images], np.int64)
        return self.detect(*pad(resized, self.facts["channels"]), originals, score_threshold)

    def detect(
        self,
        images: np.ndarray,
        sizes: np.ndarray,
        output_sizes: np.ndarray,
        score_threshold: float | None = None,
    ) -> list[dict[str, Any]]:
        """Detect objects in a batch; the arguments are those of :meth:`compute`.

        Returns:
            For each image, best first: ``boxes`` (N, 4) XYXY in pixels of the output size,
            ``scores`` (N,), ``classes`` (N,) and ``names`` of N; of a model with masks ``masks``
            (N, height, width) bool, and of a panoptic one ``panoptic_seg``: ids (height, width)
            int32, and a dict for each segment.

        Raises:
            ValueError: masks are asked for of detections whose masks the file does not compute.
        """
        lowest = self.facts["score_threshold"]
        threshold = lowest if score_threshold is None else score_threshold
        if threshold < lowest and "masks" in self.facts["outputs"]:
            raise ValueError(
                f"The score threshold is {threshold}, but the model was exported with {lowest} and "
                "computes no masks below: export it with a lower --confidence-threshold."
            )
        outputs = self.compute(images, sizes, output_sizes)
        results = []
        for index in range(len(images)):
            found = {name: values[index] for name, values in outputs.items()}
            order = np.argsort(-found["scores"], kind="stable")
            order = order[found["scores"][order] >= threshold]
            result = {name: found[name][order] for name in ("boxes", "scores", "classes")}
            result["names"] = [self.facts["classes"][number] for number in result["classes"]]
            shapes = images.shape[2:], tuple(sizes[index]), tuple(output_sizes[index])
            if "masks" in found:
                chosen = found["masks"][found["mask_index"][order]]
                result["masks"] = binary_masks(chosen, self.facts["mask_threshold"], *shapes)
            if "segment_scores" in found:
                result["panoptic_seg"] = panoptic_segmentation(found, self.facts, *shapes)
            results.append(result)
        return results

    def compute(
        self, images: np.ndarray, sizes: np.ndarray, output_sizes: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Run the file itself.

        Args:
            images: (B, 3, H, W) uint8, of :func:`pad`.
            sizes: (B, 2) int64 height and width of each image in the batch.
            output_sizes: (B, 2) int64 height and width that boxes shall refer to.

        Returns:
            ``boxes`` (B, N, 4), ``scores`` (B, N) and ``classes`` (B, N), in any order and without
            any threshold; and what masks are made of.
        """
        inputs = {"images": images, "sizes": sizes, "output_sizes": output_sizes}
        return dict(zip(self.facts["outputs"], self._compute(inputs), strict=True))


def run(
    path: str | Path, image: str | Path | np.ndarray, score_threshold: float | None = None
) -> dict[str, Any]:
    """Detect objects in one image with an exported model; see :class:`ExportedModel`."""
    rgb = image if isinstance(image, np.ndarray) else read(image)
    return ExportedModel(path)([rgb], score_threshold)[0]


def read(path: str | Path) -> np.ndarray:
    """Read an image as (height, width, 3) uint8 in RGB, its EXIF rotation applied."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def resize(image: np.ndarray, short_side: int, max_size: int) -> np.ndarray:
    """Resize (height, width, 3) as the model was trained: the short side to ``short_side`` pixels.

    The long side gets at most ``max_size``, to a pixel. A short side of 0 leaves the image alone.
    """
    height, width = image.shape[:2]
    low, high = min(height, width), max(height, width)
    if not short_side:
        return image
    if high / low * short_side > max_size:
        short_side = max(1, round(max_size * low / high))
    long_side = int(short_side * high / low)
    size = (short_side, long_side) if width < height else (long_side, short_side)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def pad(images: Sequence[np.ndarray], channels: str = "RGB") -> tuple[np.ndarray, np.ndarray]:
    """Join images (height, width, 3) to a batch (B, 3, H, W); returns it and their sizes (B, 2)."""
    sizes = np.array([image.shape[:2] for image in images], np.int64)
    batch = np.zeros((len(images), 3, *sizes.max(0)), np.uint8)
    for padded, image in zip(batch, images, strict=True):
        planes = image.transpose(2, 0, 1)
        padded[:, : image.shape[0], : image.shape[1]] = (
            planes if channels == "RGB" else planes[::-1]
        )
    return batch, sizes


def binary_masks(
    logits: np.ndarray, threshold: float, padded: tuple, size: tuple, output: tuple
) -> np.ndarray:
    """Make masks (N, height, width) bool of the ``output`` size from logits (N, h, w).

    Logits stand for an image of ``size`` that is ``padded``; a pixel whose probability is above
    ``threshold`` belongs to the object.
    """
    masks = np.empty((len(logits), *output), bool)
    rows, columns = (
        # In float32, as torch rounds.
        (np.arange(after, dtype=np.float32) * np.float32(before / after)).astype(int)
        for before, after in zip(size, output, strict=True)
    )
    for mask, plane in zip(masks, logits, strict=True):
        is_object = _upsample(plane, padded, size) > math.log(threshold / (1 - threshold))
        mask[:] = is_object[rows[:, None], columns]
    return masks


def panoptic_segmentation(
    found: dict[str, np.ndarray], facts: dict[str, Any], padded: tuple, size: tuple, output: tuple
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Give every pixel to one mask: ids (height, width) int32 from 1, and a dict for each segment.

    Masks of the same stuff class are one segment. Segments that are too small are left out, and
    their pixels given to the others.
    """
    labels: list[int] = found["segment_classes"].tolist()
    masks = np.array([i for i, label in enumerate(labels) if label < len(facts["classes"])], int)
    is_thing = {number: number in facts["thing_classes"] for number in range(len(facts["classes"]))}
    first_of_stuff: dict[int, int] = {}
    merged = np.array(
        [
            mask if is_thing[labels[mask]] else first_of_stuff.setdefault(labels[mask], mask)
            for mask in masks.tolist()
        ],
        int,
    )
    while True:
        owner = np.zeros(size, np.int32)
        strongest = np.full(size, -np.inf, np.float32)
        for number, mask in enumerate(masks):
            plane = _upsample(found["masks"][mask], padded, size)
            owner[plane > strongest] = number
            strongest = np.maximum(plane, strongest)
        if not len(masks):
            return _resize_nearest(owner, output), []
        owner = np.searchsorted(masks, merged)[owner].astype(np.int32)
        owner = _resize_nearest(owner, output)
        area = np.bincount(owner.ravel(), minlength=len(masks))
        is_large = area > facts["segment_area"]
        if is_large.all():
            break
        masks = merged = masks[is_large]  # what was merged into another mask is gone, too
    segments = [
        {
            "id": number + 1,
            "isthing": is_thing[labels[mask]],
            "category_id": labels[mask],
            "score": float(found["segment_scores"][mask]),
            "area": int(area[number]),
        }
        for number, mask in enumerate(masks)
    ]
    return owner + 1, segments


def _upsample(plane: np.ndarray, padded: tuple, size: tuple) -> np.ndarray:
    image = Image.fromarray(plane).resize((padded[1], padded[0]), Image.Resampling.BILINEAR)
    return np.asarray(image)[: size[0], : size[1]]


def _resize_nearest(ids: np.ndarray, size: tuple) -> np.ndarray:
    image = Image.fromarray(ids).resize((int(size[1]), int(size[0])), Image.Resampling.NEAREST)
    return np.array(image)


def _load_onnx(path: Path, runtime: str | None, num_threads: int) -> tuple[Any, dict]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    facts = _read_facts(path, session.get_modelmeta().custom_metadata_map.get(FACTS))
    if (runtime or facts.get("runtime")) != "openvino":
        return lambda inputs: session.run(None, inputs), facts
    import openvino

    # On processors with bfloat16 OpenVINO would compute in it, with boxes off by pixels.
    properties: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}
    if num_threads:
        properties["INFERENCE_NUM_THREADS"] = num_threads
    compiled = openvino.Core().compile_model(path, "CPU", properties)
    return lambda inputs: list(compiled(inputs).values()), facts


def _load_torch_export(path: Path, runtime: str | None, num_threads: int) -> tuple[Any, dict]:
    import torch

    extra = {FACTS: ""}
    module = torch.export.load(path, extra_files=extra).module()
    return _torch_function(module, num_threads), _read_facts(path, extra[FACTS])


def _load_torchscript(path: Path, runtime: str | None, num_threads: int) -> tuple[Any, dict]:
    import torch

    extra = {FACTS: ""}
    module = torch.jit.load(path, _extra_files=extra)
    return _torch_function(module, num_threads), _read_facts(path, extra[FACTS])


def _torch_function(module: Any, num_threads: int) -> Any:
    import torch

    if num_threads:
        torch.set_num_threads(num_threads)

    def compute(inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        with torch.inference_mode():
            outputs = module(*map(torch.from_numpy, inputs.values()))
        return [output.numpy() for output in outputs]

    return compute


def _read_facts(path: Path, text: str | bytes | None) -> dict[str, Any]:
    if not text:
        raise ValueError(f"{path} is no model that tools/export_model.py wrote.")
    return json.loads(text)


_LOADERS = {".onnx": _load_onnx, ".pt2": _load_torch_export, ".ts": _load_torchscript}

if __name__ == "__main__":
    found = run(sys.argv[1], sys.argv[2])
    for name, score, box in zip(found["names"], found["scores"], found["boxes"], strict=True):
        print(f"{name} {score:.3f}", *(f"{side:.1f}" for side in box))
