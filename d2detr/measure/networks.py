"""Training steps and inference of whole models."""

from collections.abc import Callable
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from d2detr.engine.step import TrainingStep
from d2detr.measure.peer import build_image_processor, build_peer, peer_inputs, peer_labels
from d2detr.measure.timing import Step
from d2detr.measure.workload import AMP, DATASET_IMAGES, Workload
from d2detr.modeling.backbone import build_detr_backbone
from d2detr.modeling.targets import Targets
from d2detr.solver import build_optimizer


def our_training(workload: Workload) -> Step:
    """Forward, losses, backward, clipping and AdamW; returns the total loss."""
    model = workload.build_model().train()
    step = TrainingStep(
        model,
        build_optimizer(workload.cfg, model),
        amp_dtype=AMP[workload.amp],
        num_parts=workload.cfg.SOLVER.ACCUMULATE_STEPS,
    )
    batch = workload.training_batch()

    def run() -> Tensor:
        losses = step.compute_gradients(batch)
        step.update()
        return sum(losses.values())

    return run


def peer_training(workload: Workload) -> Step:
    """The same with the peer, which gets images that are normalised and padded already."""
    model = workload.build_model()
    batch = workload.training_batch()
    inputs = peer_inputs(model, batch)
    size = inputs["pixel_values"].shape[-2:] if workload.has_masks else None
    targets = Targets.from_instances(
        [x["instances"] for x in batch], model.num_classes, workload.device, size
    )
    labels = peer_labels(targets)
    peer = build_peer(model, workload).train()
    del model
    optimizer = build_optimizer(workload.cfg, peer)
    scaler = torch.amp.GradScaler(workload.device.type, enabled=workload.amp == "fp16")

    def run() -> Tensor:
        with workload.autocast():
            loss = peer(**inputs, labels=labels).loss
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        return loss.detach()

    return run


def our_inference(workload: Workload) -> Step:
    """From uint8 images to detections in pixels; returns the scores."""
    model = workload.build_model().eval()
    next_batch = _in_turn(workload)

    def run() -> Tensor:
        with torch.inference_mode(), workload.autocast():
            results = model(next_batch())
        return torch.cat([x["instances"].scores for x in results])

    return run


def peer_inference(workload: Workload) -> Step:
    """The same with the peer and its image processor."""
    peer = build_peer(workload.build_model(), workload).eval()
    processor = build_image_processor(workload)
    next_batch = _in_turn(workload)

    def run() -> Tensor:
        batch = next_batch()
        images = [x["image"].to(workload.device) for x in batch]
        sizes = [
            (x.get("height", y.shape[1]), x.get("width", y.shape[2]))
            for x, y in zip(batch, images, strict=True)
        ]
        with torch.inference_mode(), workload.autocast():
            inputs = processor(images, do_resize=False, return_tensors="pt")
            outputs = peer(**inputs.to(workload.device))
            results = processor.post_process_object_detection(outputs, 0.0, sizes)
            if workload.has_masks:
                processor.post_process_panoptic_segmentation(outputs, 0.85, target_sizes=sizes)
        return torch.cat([x["scores"] for x in results])

    return run


def our_backbone(workload: Workload, *, plain: bool = False, channels_last: bool = True) -> Step:
    """The backbone in inference, from a normalised image to features; returns the last of them."""
    model = workload.build_model().eval()
    backbone = model.backbone
    if plain:
        backbone = build_detr_backbone(workload.cfg).eval().to(workload.device)
        backbone.load_state_dict(model.backbone.state_dict())
    layout = torch.channels_last if channels_last else torch.contiguous_format
    backbone.to(memory_format=layout)
    pixels = model.preprocess_image(workload.images(workload.batch)).tensor
    pixels = pixels.contiguous(memory_format=layout)

    def run() -> Tensor:
        with torch.inference_mode(), workload.autocast():
            return backbone(pixels)[model.in_features[-1]]

    return run


def _in_turn(workload: Workload) -> Callable[[], list[dict[str, Any]]]:
    """Returns batches of the workload's images, over and over."""
    images = cycle(workload.images(DATASET_IMAGES if workload.dataset else workload.batch))
    return lambda: list(islice(images, workload.batch))
