from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
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
        class_weight: for the classification: the weights of all queries' classes, summed over the
            worker's own images or those of an average worker; or ``num_boxes``.
        num_denoised: targets of the worker's own images or of an average worker; for denoising.
    """

    num_boxes: Tensor | float
    class_weight: Tensor | float
    num_denoised: Tensor | float


@dataclass
class Group:
    """Predictions of one kind, and what they shall be.

    Attributes:
        logits: (L, B, Q, C).
        boxes: (L, B, Q, 4), centre, width, height in [0, 1].
        targets: of the B images.
        matching: which queries shall be which targets; None lets the matcher decide.
        divisor: what the sums of losses are divided by; None computes it from ``targets``.
        suffix: of the losses' names.
    """

    logits: Tensor
    boxes: Tensor
    targets: Targets
    matching: Matching | None = None
    divisor: Divisor | None = None
    suffix: str = ""


class SetCriterion(nn.Module):
    """DETR's losses (paper, section 3.1), for all decoder layers in one pass.

    Each layer is matched with the targets; matched queries learn class and box (those of the last
    layer also their masks), the others that they are none. Everything is computed in float32, also
    under autocast, or in the float64 of a model in double precision.

    Args:
        matcher: pairs queries with targets; its classification gives the classification loss.
        class_weight: weight of the classification loss.
        l1_weight: weight of the L1 box loss.
        giou_weight: weight of the generalised IoU loss.
        mask_weight: weight of the focal loss of masks.
        dice_weight: weight of the dice loss of masks.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        *,
        class_weight: float = 1.0,
        l1_weight: float = 5.0,
        giou_weight: float = 2.0,
        mask_weight: float = 1.0,
        dice_weight: float = 1.0,
    ):
        super().__init__()
        self.matcher = matcher
        self.classification = matcher.classification
        self.loss_weights = {
            "loss_ce": class_weight,
            "loss_bbox": l1_weight,
            "loss_giou": giou_weight,
            "loss_mask": mask_weight,
            "loss_dice": dice_weight,
        }

    def forward(
        self,
        groups: Sequence[Group],
        predict_masks: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Compute the losses.

        Args:
            groups: the decoder's predictions, and perhaps others.
            predict_masks: gives the mask logits (M, h, w) of the first group's last layer for M
                pairs of an image (M,) and a query (M,). Only matched queries are asked for. None
                trains no masks.

        Returns:
            The weighted losses: ``loss_ce``, ``loss_bbox`` and ``loss_giou`` of the last layer,
            and the same with ``_i`` of each earlier layer i, each after the group's suffix;
            ``loss_mask`` and ``loss_dice`` with masks; their sum is the total.
            And the metrics of the first group's last layer that are not optimised: ``class_error``
            (% of matched queries with a wrong class) and ``cardinality_error`` (mean absolute
            difference between an image's objects and its queries that find one).

        Raises:
            FloatingPointError: a prediction is not finite; says which.
        """
        device = groups[0].logits.device
        with torch.autocast(device.type, enabled=False):
            losses: dict[str, Tensor] = {}
            normalised = [self.classification.normalise(at_least_float32(x.logits)) for x in groups]
            matchings, metrics = self._match(groups, normalised)
            divisors = [
                x.divisor or self.divisor(x.targets.counts, x.logits.shape[2], device)
                for x in groups
            ]
            for group, *parts in zip(groups, normalised, matchings, divisors, strict=True):
                losses |= self._weigh(self._losses(group, *parts), group.suffix)
        if predict_masks is not None:
            matching, targets = matchings[0], groups[0].targets
            mask_logits = predict_masks(matching.image, matching.query[-1])
            with torch.autocast(device.type, enabled=False):
                target_masks = targets.masks[matching.target[-1]]
                num_boxes = divisors[0].num_boxes
                losses |= self._weigh(
                    mask_losses(at_least_float32(mask_logits), target_masks, num_boxes)
                )
        return losses, metrics

    def _match(
        self, groups: Sequence[Group], normalised: list[Tensor]
    ) -> tuple[list[Matching], dict[str, float]]:
        """Match every group whose matching is not known, with one copy to the host for all."""
        first = groups[0].logits[-1]
        best = first.argmax(-1)
        finite, is_object, best, labels, *costs = _copy_to_host(
            _finite(groups),
            self.classification.is_object(first, best),
            best,
            groups[0].targets.labels,
            *(
                self.matcher.cost(logits, group.boxes, group.targets)
                for group, logits in zip(groups, normalised, strict=True)
                if group.matching is None
            ),
        )
        _check_finite(finite, groups)
        remaining = iter(costs)
        on_host = [
            x.matching or self.matcher.solve(next(remaining), x.targets.counts) for x in groups
        ]
        metrics = _metrics(best, is_object, labels, on_host[0], groups[0].targets.counts)
        return [x.to(first.device) for x in on_host], metrics

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
            exact_global_batch: divide the classification and the denoising, too, by a sum over the
                images of all workers, so that the mean of their losses is the loss of all images
                at once. The originals divide them by that of each worker's own images.
        """
        num_boxes = _average_over_workers(sum(counts), device, lowest=1.0)
        own_weight = self._own_class_weight(counts, num_queries)
        class_weight, num_denoised = own_weight, max(sum(counts), 1)
        if exact_global_batch:
            num_denoised = num_boxes
            if own_weight is not None:
                class_weight = _average_over_workers(own_weight, device)
        return Divisor(num_boxes, num_boxes if own_weight is None else class_weight, num_denoised)

    def own_divisor(self, counts: list[int], num_queries: int) -> Divisor:
        """What the losses of this process's images are divided by, whatever others have.

        Args:
            counts: number of objects of each image.
            num_queries: Q.
        """
        num_boxes = max(sum(counts), 1)
        own_weight = self._own_class_weight(counts, num_queries)
        return Divisor(num_boxes, num_boxes if own_weight is None else own_weight, num_boxes)

    def _own_class_weight(self, counts: list[int], num_queries: int) -> float | None:
        num_pairs = sum(min(count, num_queries) for count in counts)
        return self.classification.total_weight(num_pairs, num_queries * len(counts) - num_pairs)

    def _losses(
        self, group: Group, normalised: Tensor, matching: Matching, divisor: Divisor
    ) -> dict[str, Tensor]:
        """The unweighted losses (L,) of a group.

        Those of boxes are sums over pairs, divided by the targets of an average worker.
        """
        layer = torch.arange(len(normalised), device=normalised.device)[:, None]
        image, query, targets = matching.image, matching.query, group.targets
        labels = targets.labels[matching.target]
        classification = self.classification.loss(normalised, layer, image, query, labels)
        src = at_least_float32(group.boxes)[layer, image, query]  # (L, M, 4)
        tgt = targets.boxes[matching.target]
        giou = generalized_box_iou(box_cxcywh_to_xyxy(src), box_cxcywh_to_xyxy(tgt))
        return {
            "loss_ce": classification / divisor.class_weight,
            "loss_bbox": (src - tgt).abs().sum((1, 2)) / divisor.num_boxes,
            "loss_giou": (1 - giou).sum(1) / divisor.num_boxes,
        }

    def _weigh(self, losses: dict[str, Tensor], suffix: str = "") -> dict[str, Tensor]:
        """Name each layer's weighted loss; a loss of weight 0 is left out."""
        weighted = {}
        for name, values in losses.items():
            weight = self.loss_weights[name]
            if weight:
                *auxiliary, last = (weight * values).unbind()
                weighted[name + suffix] = last
                weighted.update({f"{name}{suffix}_{i}": x for i, x in enumerate(auxiliary)})
        return weighted


def mask_losses(logits: Tensor, targets: Tensor, num_boxes: Tensor | float) -> dict[str, Tensor]:
    """Focal and dice losses of M masks, one (1,) tensor each.

    The focal loss of a mask is the mean over all pixels, padding included.

    Args:
        logits: (M, h, w); upsampled to the size of the targets.
        targets: (M, H, W) bool, at the padded size of the batch.
        num_boxes: the sums over masks are divided by it.
    """
    logits = F.interpolate(
        at_least_float32(logits)[:, None], targets.shape[-2:], mode="bilinear", align_corners=False
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
    packed = torch.cat([x.flatten().float() for x in tensors]).cpu()
    parts = packed.split([x.numel() for x in tensors])
    return [part.view(x.shape).to(x.dtype) for part, x in zip(parts, tensors, strict=True)]


def _finite(groups: Sequence[Group]) -> Tensor:
    """Flags of the logits of every layer, then of the boxes, of every group in turn."""
    tensors = (x for group in groups for x in (at_least_float32(group.logits), group.boxes))
    return torch.cat([x.flatten(1).sum(1).isfinite() for x in tensors])


def _check_finite(finite: Tensor, groups: Sequence[Group]) -> None:
    """Raise for the flags of :func:`_finite` that are False."""
    if finite.all():
        return
    names = [
        f"{name} of decoder layer {layer}" + (f" ({group.suffix})" if group.suffix else "")
        for group in groups
        for name in ("pred_logits", "pred_boxes")
        for layer in range(len(group.logits))
    ]
    faults = [name for name, flag in zip(names, finite.tolist(), strict=True) if not flag]
    raise FloatingPointError(f"Not finite: {', '.join(faults)}")


def _metrics(
    best: Tensor, is_object: Tensor, labels: Tensor, matching: Matching, counts: list[int]
) -> dict[str, float]:
    correct = best[matching.image, matching.query[-1]] == labels[matching.target[-1]]
    difference = is_object.sum(1) - torch.tensor(counts)
    return {
        "class_error": 100 - 100 * correct.float().mean().item() if len(correct) else 100.0,
        "cardinality_error": difference.abs().float().mean().item(),
    }


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
