"""Losses and post-processing alone, on made-up predictions."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from detectron2.structures import ImageList
from torch import Tensor

from d2detr.errors import UserError
from d2detr.measure.peer import build_image_processor, import_transformers, peer_labels
from d2detr.measure.timing import Step
from d2detr.measure.workload import Workload
from d2detr.modeling.classification import Classification
from d2detr.modeling.criterion import Group
from d2detr.modeling.from_config import build_classification, build_criterion
from d2detr.modeling.postprocess import postprocess_boxes
from d2detr.modeling.postprocess_masks import Segmenter
from d2detr.modeling.targets import Targets

_SEGMENTS = 15  # queries that a panoptic image keeps


def our_losses(workload: Workload) -> Step:
    """Matching, losses and their gradients for every decoder layer; returns the total loss."""
    logits, boxes = _predictions(workload, workload.cfg.MODEL.DETR.DEC_LAYERS)
    criterion = build_criterion(workload.cfg, _classification(workload)).to(workload.device)
    groups = [Group(logits, boxes, _targets(workload))]

    def run() -> Tensor:
        with workload.autocast():
            losses, _ = criterion(groups)
            total = sum(losses.values())
        torch.autograd.grad(total, (logits, boxes))
        return total.detach()

    return run


def peer_losses(workload: Workload) -> Step:
    """The same with the peer.

    Raises:
        UserError: its losses of the model have other weights.
    """
    import_transformers()
    from transformers.loss import loss_deformable_detr, loss_for_object_detection

    detr = workload.cfg.MODEL.DETR
    if detr.CLASS_WEIGHT != 1:
        raise UserError(
            f"MODEL.DETR.CLASS_WEIGHT is {detr.CLASS_WEIGHT}, but transformers' losses always "
            "weigh the class with 1. Add MODEL.DETR.CLASS_WEIGHT 1.0."
        )
    if detr.CLASSIFICATION == "softmax":
        compute = loss_for_object_detection.ForObjectDetectionLoss
    else:
        compute = loss_deformable_detr.DeformableDetrForObjectDetectionLoss
    config = SimpleNamespace(
        num_labels=workload.num_classes,
        decoder_layers=detr.DEC_LAYERS,
        auxiliary_loss=True,
        class_cost=detr.CLASS_COST or detr.CLASS_WEIGHT,
        bbox_cost=detr.L1_WEIGHT,
        giou_cost=detr.GIOU_WEIGHT,
        bbox_loss_coefficient=detr.L1_WEIGHT,
        giou_loss_coefficient=detr.GIOU_WEIGHT,
        eos_coefficient=detr.NO_OBJECT_WEIGHT,
        focal_alpha=0.25,
    )
    logits, boxes = _predictions(workload, detr.DEC_LAYERS)
    labels = peer_labels(_targets(workload))

    def run() -> Tensor:
        with workload.autocast():
            total, *_ = compute(
                logits[-1], labels, workload.device, boxes[-1], config, logits, boxes
            )
        torch.autograd.grad(total, (logits, boxes))
        return total.detach()

    return run


def our_postprocessing(workload: Workload) -> Step:
    """From a network's outputs to boxes or, of a mask model, to a panoptic segmentation."""
    logits, boxes, masks = _outputs(workload)
    sizes = [workload.size] * workload.batch
    images = ImageList(torch.empty(workload.batch, 3, *workload.size, device="meta"), sizes)
    classification = _classification(workload)
    segmenter = Segmenter(classification, thing_classes=range(workload.num_classes))
    limit = workload.cfg.MODEL.DETR.TEST.DETECTIONS_PER_IMAGE

    @torch.inference_mode()
    def run() -> Tensor:
        detections = postprocess_boxes(
            logits,
            boxes,
            sizes,
            classification=classification,
            detections_per_image=limit,
            with_query_index=workload.has_masks,
        )
        if workload.has_masks:
            no_instances = [x[:0] for x in detections]
            segmenter(no_instances, logits, lambda image, query: masks[image, query], images)
        return torch.cat([x.scores for x in detections])

    return run


def peer_postprocessing(workload: Workload) -> Step:
    """The same with the peer."""
    logits, boxes, masks = _outputs(workload)
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes, pred_masks=masks)
    processor = build_image_processor(workload)
    sizes = [workload.size] * workload.batch

    @torch.inference_mode()
    def run() -> Tensor:
        results = processor.post_process_object_detection(outputs, 0.0, sizes)
        if workload.has_masks:
            processor.post_process_panoptic_segmentation(outputs, 0.85, target_sizes=sizes)
        return torch.cat([x["scores"] for x in results])

    return run


def _predictions(workload: Workload, num_layers: int) -> tuple[Tensor, Tensor]:
    detr = workload.cfg.MODEL.DETR
    shape = (num_layers, workload.batch, detr.NUM_OBJECT_QUERIES)
    generator = torch.Generator().manual_seed(0)
    num_logits = _classification(workload).num_logits
    logits = torch.randn(*shape, num_logits, generator=generator)
    boxes = torch.rand(*shape, 4, generator=generator) * 0.4 + 0.1
    return tuple(x.to(workload.device).requires_grad_() for x in (logits, boxes))


def _classification(workload: Workload) -> Classification:
    return build_classification(workload.cfg, workload.num_classes)


def _targets(workload: Workload) -> Targets:
    instances = [x["instances"] for x in workload.training_batch()]
    return Targets.from_instances(instances, workload.num_classes, workload.device)


def _outputs(workload: Workload) -> tuple[Tensor, Tensor, Tensor | None]:
    """Logits, boxes and mask logits, of which every image keeps a few as segments."""
    logits, boxes = (x.detach()[0] for x in _predictions(workload, 1))
    logits[..., workload.num_classes :] = 12  # no object, where it has a logit
    logits[:, :_SEGMENTS, 0] = 20
    if not workload.has_masks:
        return logits, boxes, None
    height, width = (-(-x // 4) for x in workload.size)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(*logits.shape[:2], height // 16, width // 16, generator=generator)
    masks = F.interpolate(4 * coarse, (height, width), mode="bilinear")
    return logits, boxes, masks.to(workload.device)
