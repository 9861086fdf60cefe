from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from d2detr.layers import at_least_float32, box_cxcywh_to_xyxy, generalized_box_iou
from d2detr.modeling.matcher import HungarianMatcher, Matching
from d2detr.modeling.targets import Targets


@dataclass
class Divisor:
    """What a batch's sums of losses are divided by.

    Attributes:
        num_boxes: targets of an average worker, at least 1; for losses of boxes and masks.
        class_weight: the weights of all queries' classes, summed over the worker's own images or
            those of an average worker; for the classification.
    """

    num_boxes: Tensor | float
    class_weight: Tensor | float


class SetCriterion(nn.Module):
    """DETR's losses (paper, section 3.1), for all decoder layers in one pass.

    Each layer is matched with the targets; matched queries learn class and box (those of the last
    layer also their masks), the others learn no-object. Everything is computed in float32, also
    under autocast, or in the float64 of a model in double precision.

    Args:
        num_classes: K, without no-object.
        matcher: pairs queries with targets.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 box loss.
        giou_weight: weight of the generalised IoU loss.
        no_object_weight: weight of no-object in the classification loss; each class weighs 1.
        mask_weight: weight of the focal loss of masks.
        dice_weight: weight of the dice loss of masks.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        matcher: HungarianMatcher,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        no_object_weight: float = 0.1,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
    ):
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.loss_weights = {
            "loss_ce": class_weight,
            "loss_bbox": l1_weight,
            "loss_giou": giou_weight,
            "loss_mask": mask_weight,
            "loss_dice": dice_weight,
        }
        self.no_object_weight = no_object_weight
        class_weights = torch.ones(num_classes + 1)
        class_weights[-1] = no_object_weight
        self.register_buffer("class_weights", class_weights, persistent=False)

    def forward(
        self,
        outputs: dict[str, Tensor],
        targets: Targets,
        predict_masks: Callable[[Tensor, Tensor], Tensor] | None = None,
        divisor: Divisor | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Compute the losses.

        Args:
            outputs: ``pred_logits`` (L, B, Q, K+1) and ``pred_boxes`` (L, B, Q, 4), centre, width,
                height in [0, 1].
            targets: of the B images.
            predict_masks: gives the mask logits (M, h, w) of the last layer for M pairs of an
                image (M,) and a query (M,). Only matched queries are asked for. None trains no
                masks.
            divisor: that of a larger batch, which the images are a part of.

        Returns:
            The weighted losses: ``loss_ce``, ``loss_bbox`` and ``loss_giou`` of the last layer,
            and the same with the suffix ``_i`` of each earlier layer i; ``loss_mask`` and
            ``loss_dice`` with masks; their sum is the total.
            And the metrics of the last layer that are not optimised: ``class_error`` (% of matched
            queries with a wrong class) and ``cardinality_error`` (mean absolute difference between
            an image's objects and its queries that are not no-object).

        Raises:
            FloatingPointError: a prediction is not finite; says which.
        """
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        with torch.autocast(logits.device.type, enabled=False):
            logits, boxes = at_least_float32(logits), at_least_float32(boxes)
            log_probabilities = logits.log_softmax(-1)
            cost, finite, predicted, labels = _copy_to_host(
                self.matcher.cost(log_probabilities, boxes, targets),
                torch.stack([x.flatten(1).sum(1).isfinite() for x in (logits, boxes)]),
                logits[-1].argmax(-1),
                targets.labels,
            )
            _check_finite(finite)
            host_matching = self.matcher.solve(cost, targets.counts)
            metrics = self._metrics(predicted, labels, host_matching, targets.counts)
            matching = host_matching.to(logits.device)
            if divisor is None:
                divisor = self.divisor(targets.counts, logits.shape[2], logits.device)
            losses = {
                "loss_ce": self._classification_loss(log_probabilities, targets, matching, divisor),
                **self._box_losses(boxes, targets, matching, divisor),
            }
        if predict_masks is not None:
            mask_logits = predict_masks(matching.image, matching.query[-1])
            with torch.autocast(logits.device.type, enabled=False):
                target_masks = targets.masks[matching.target[-1]]
                mask_logits = at_least_float32(mask_logits)
                losses |= mask_losses(mask_logits, target_masks, divisor.num_boxes)
        return self._weigh(losses), metrics

    def divisor(
        self,
        counts: list[int],
        num_queries: int,
        device: torch.device,
        exact_global_batch: bool = False,
    ) -> Divisor:
        """What the losses of a batch are divided by.

        Args:
            counts: number of objects of each image.
            num_queries: Q.
            device: of the model.
            exact_global_batch: divide the classification, too, by a sum over the images of all
                workers, so that the mean of their losses is the loss of all images at once. The
                original divides it by that of each worker's own images.
        """
        num_pairs = sum(min(count, num_queries) for count in counts)
        others = num_queries * len(counts) - num_pairs
        class_weight = num_pairs + self.no_object_weight * others
        return Divisor(
            num_boxes=_average_over_workers(sum(counts), device, lowest=1.0),
            class_weight=_average_over_workers(class_weight, device)
            if exact_global_batch
            else class_weight,
        )

    def _classification_loss(
        self, log_probabilities: Tensor, targets: Targets, matching: Matching, divisor: Divisor
    ) -> Tensor:
        """Cross entropy (L,), the mean over all queries weighted with their classes' weights."""
        shape, device = log_probabilities.shape[:3], log_probabilities.device
        classes = torch.full(shape, self.num_classes, device=device)
        layer = torch.arange(len(classes), device=device)[:, None]
        classes[layer, matching.image, matching.query] = targets.labels[matching.target]
        loss = F.nll_loss(
            log_probabilities.flatten(0, 2), classes.flatten(), self.class_weights, reduction="none"
        )
        return loss.view(len(classes), -1).sum(1) / divisor.class_weight

    def _box_losses(
        self, boxes: Tensor, targets: Targets, matching: Matching, divisor: Divisor
    ) -> dict[str, Tensor]:
        """L1 and GIoU losses (L,): sums over pairs, divided by the targets of an average worker."""
        layer = torch.arange(len(boxes), device=boxes.device)[:, None]
        src = boxes[layer, matching.image, matching.query]  # (L, M, 4)
        tgt = targets.boxes[matching.target]
        giou = generalized_box_iou(box_cxcywh_to_xyxy(src), box_cxcywh_to_xyxy(tgt))
        return {
            "loss_bbox": (src - tgt).abs().sum((1, 2)) / divisor.num_boxes,
            "loss_giou": (1 - giou).sum(1) / divisor.num_boxes,
        }

    def _weigh(self, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        """Name each layer's weighted loss; a loss of weight 0 is left out."""
        weighted = {}
        for name, values in losses.items():
            weight = self.loss_weights[name]
            if weight:
                *auxiliary, last = (weight * values).unbind()
                weighted[name] = last
                weighted.update({f"{name}_{i}": value for i, value in enumerate(auxiliary)})
        return weighted

    def _metrics(
        self, predicted: Tensor, labels: Tensor, matching: Matching, counts: list[int]
    ) -> dict[str, float]:
        correct = predicted[matching.image, matching.query[-1]] == labels[matching.target[-1]]
        num_predicted = (predicted != self.num_classes).sum(1)
        return {
            "class_error": 100 - 100 * correct.float().mean().item() if len(correct) else 100.0,
            "cardinality_error": (num_predicted - torch.tensor(counts)).abs().float().mean().item(),
        }


def build_criterion(cfg: CfgNode, num_classes: int) -> SetCriterion:
    """Build the losses, and the matching costs of the same weights, from ``MODEL.DETR``."""
    detr = cfg.MODEL.DETR
    weights = {
        "class_weight": detr.CLASS_WEIGHT,
        "l1_weight": detr.L1_WEIGHT,
        "giou_weight": detr.GIOU_WEIGHT,
    }
    return SetCriterion(
        num_classes=num_classes,
        matcher=HungarianMatcher(**weights),
        no_object_weight=detr.NO_OBJECT_WEIGHT,
        mask_weight=detr.MASK_WEIGHT,
        dice_weight=detr.DICE_WEIGHT,
        **weights,
    )


def mask_losses(logits: Tensor, targets: Tensor, num_boxes: Tensor | float) -> dict[str, Tensor]:
    """Focal and dice losses of M masks, one (1,) tensor each.

    The focal loss of a mask is the mean over all pixels, padding included.

    Args:
        logits: (M, h, w); upsampled to the size of the targets.
        targets: (M, H, W) bool, at the padded size of the batch.
        num_boxes: the sums over masks are divided by it.
    """
    logits = F.interpolate(
        logits[:, None], targets.shape[-2:], mode="bilinear", align_corners=False
    )[:, 0].flatten(1)
    targets = targets.flatten(1).to(logits.dtype)
    focal = sigmoid_focal_loss(logits, targets, alpha=0.25, gamma=2).mean(1)
    probability = logits.sigmoid()
    overlap = 2 * (probability * targets).sum(1)
    # The 1s give empty masks a finite loss.
    dice = 1 - (overlap + 1) / (probability.sum(1) + targets.sum(1) + 1)
    return {
        "loss_mask": focal.sum(0, keepdim=True) / num_boxes,
        "loss_dice": dice.sum(0, keepdim=True) / num_boxes,
    }


@torch.no_grad()
def _copy_to_host(*tensors: Tensor) -> list[Tensor]:
    """Copy tensors to the host in one transfer; a GPU is waited for once and not once each."""
    if tensors[0].device.type == "cpu":
        return list(tensors)
    packed = torch.cat([x.flatten().to(tensors[0].dtype) for x in tensors]).cpu()
    parts = packed.split([x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]


def _check_finite(finite: Tensor) -> None:
    """Raise for the first of (2, L) flags of ``pred_logits`` and ``pred_boxes`` that is False."""
    if finite.all():
        return
    faults = [
        f"{name} of decoder layer {layer}"
        for name, flags in zip(("pred_logits", "pred_boxes"), finite.tolist(), strict=True)
        for layer, flag in enumerate(flags)
        if not flag
    ]
    raise FloatingPointError(f"Not finite: {', '.join(faults)}")


def _average_over_workers(
    value: float, device: torch.device, lowest: float = 0.0
) -> Tensor | float:
    """Mean of ``value`` over all workers, at least ``lowest``, without waiting for the device."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return max(value, lowest)
    total = torch.tensor([float(value)]).to(device, non_blocking=True)
    torch.distributed.all_reduce(total)
    return (total / world_size).clamp(min=lowest)
