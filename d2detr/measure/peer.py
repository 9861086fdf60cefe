"""DETR of the ``transformers`` library, with our weights."""

import json
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from d2detr.checkpoint.convert import Architecture, write_huggingface
from d2detr.errors import UserError
from d2detr.measure.workload import Workload
from d2detr.modeling import DETR
from d2detr.modeling.targets import Targets


def build_peer(model: DETR, workload: Workload) -> nn.Module:
    """The library's model with the weights of ours, on the same device and equally frozen.

    Raises:
        UserError: the library is not installed.
    """
    transformers = import_transformers()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    detr = workload.cfg.MODEL.DETR
    dilation = workload.cfg.MODEL.RESNETS.RES5_DILATION == 2
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder, "model")
        write_huggingface(
            model.state_dict(),
            folder,
            class_names=None,
            architecture=Architecture(
                num_heads=detr.NHEADS, num_queries=detr.NUM_OBJECT_QUERIES, dilation=dilation
            ),
        )
        (name,) = json.loads((folder / "config.json").read_text())["architectures"]
        peer = getattr(transformers, name).from_pretrained(
            folder,
            dropout=detr.DROPOUT,
            attention_dropout=detr.DROPOUT,
            activation_dropout=detr.DROPOUT,
            auxiliary_loss=detr.DEEP_SUPERVISION,
        )
    return peer.to(workload.device)


def build_image_processor(workload: Workload) -> Any:
    """The library's preparation of images and reading of predictions."""
    processors = {"softmax": "DetrImageProcessor", "focal": "ConditionalDetrImageProcessor"}
    name = processors[workload.cfg.MODEL.DETR.CLASSIFICATION]
    return getattr(import_transformers(), name)()


def peer_labels(targets: Targets) -> list[dict[str, Tensor]]:
    """The truth as the library takes it."""
    labels = []
    parts = zip(
        targets.labels.split(targets.counts), targets.boxes.split(targets.counts), strict=True
    )
    for classes, boxes in parts:
        labels.append({"class_labels": classes, "boxes": boxes})
    if targets.masks is not None:
        for label, masks in zip(labels, targets.masks.split(targets.counts), strict=True):
            label["masks"] = masks.float()
    return labels


def peer_inputs(model: DETR, images: list[dict[str, Any]]) -> dict[str, Tensor]:
    """Normalised, padded pixels and their mask, as the library's data pipeline makes them."""
    batch = model.preprocess_image(images)
    mask = torch.zeros(len(images), *batch.tensor.shape[-2:], dtype=torch.long)
    for row, (height, width) in zip(mask, batch.image_sizes, strict=True):
        row[:height, :width] = 1
    return {"pixel_values": batch.tensor, "pixel_mask": mask.to(batch.tensor.device)}


def import_transformers() -> ModuleType:
    """The library, or an error that names the extra."""
    try:
        import timm  # noqa: F401 whose ResNet the published models use
        import transformers
    except ImportError as error:
        raise UserError(
            f"--compare huggingface needs {error.name}: pip install 'd2detr[benchmark]'."
        ) from None
    return transformers
