"""A trained DETR as a function of tensors alone, which every exporter can capture."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from detectron2.structures import ImageList
from torch import Tensor, nn

from d2detr.layers import box_cxcywh_to_xyxy
from d2detr.layers.cpu.frozen_norm import FoldedConv2d
from d2detr.modeling.meta_arch import DETR, Encoded

QUERIES_PER_PASS = 8


class ExportedDETR(nn.Module):
    """From uint8 images to detections, normalisation and post-processing included.

    Args:
        model: copied, so that it stays as it is.
        score_threshold: masks of detections with a lower score are not computed.
        dtype: of the weights and most of the computation; boxes, scores and masks are float32.

    Attributes:
        outputs: names of what :meth:`forward` returns.
    """

    def __init__(
        self, model: DETR, score_threshold: float = 0.0, dtype: torch.dtype = torch.float32
    ):
        super().__init__()
        model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        fold_norms(model)
        for part in (model.backbone, model.input_proj, model.transformer, model.heads):
            part.to(dtype)
        self.model = model
        self.score_threshold = score_threshold
        self.dtype = dtype
        self.is_panoptic = model.mask_head is not None and bool(model.segmenter.thing_classes)
        self.outputs = ["boxes", "scores", "classes"]
        if model.mask_head is not None:
            model.mask_head.to(dtype)
            self.outputs += ["masks", "mask_index"]
        if self.is_panoptic:
            self.outputs += ["segment_scores", "segment_classes"]

    def forward(self, images: Tensor, sizes: Tensor, output_sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            images: (B, 3, H, W) uint8, in the channel order of the config's ``INPUT.FORMAT``. What
                lies right of or below an image's size is not read.
            sizes: (B, 2) int64 height and width of each image in the batch.
            output_sizes: (B, 2) int64 height and width that its boxes shall refer to.

        Returns:
            ``boxes`` (B, N, 4), XYXY in pixels of ``output_sizes``, ``scores`` (B, N) and
            ``classes`` (B, N) int64. A mask head adds ``masks`` (B, Q, h, w), logits that stand for
            the padded batch, 0 where nobody needs them, and ``mask_index`` (B, N) of each
            detection's mask. A panoptic model adds ``segment_scores`` (B, Q) and
            ``segment_classes`` (B, Q) of each mask, K where it is none of a segment.
        """
        model = self.model
        encoded = model.encode(self._normalise(images, sizes))
        outputs = model.predict(encoded.decoded)
        logits, boxes = outputs["pred_logits"][0], outputs["pred_boxes"][0]
        best = model.classification.choose(logits, model.detections_per_image)
        query = torch.arange(boxes.shape[1], device=boxes.device).expand(boxes.shape[:2])
        if best.query is not None:
            query = best.query
            boxes = boxes.gather(1, query[..., None].expand(-1, -1, 4))
        height, width = output_sizes.to(boxes.dtype).unsqueeze(1).unbind(-1)
        boxes = box_cxcywh_to_xyxy(boxes) * torch.stack((width, height, width, height), -1)
        detections = boxes, best.scores, best.classes
        if model.mask_head is None:
            return detections
        return *detections, *self._masks(encoded, logits, best.scores, query)

    def _normalise(self, images: Tensor, sizes: Tensor) -> ImageList:
        model = self.model
        pixels = (images - model.pixel_mean) / model.pixel_std
        height, width = images.shape[-2:]
        rows = torch.arange(height, device=images.device) < sizes[:, :1]
        columns = torch.arange(width, device=images.device) < sizes[:, 1:]
        pixels = pixels.where(rows[:, None, :, None] & columns[:, None, None, :], 0.0)
        multiple = model.backbone.size_divisibility
        if multiple > 1:
            pixels = F.pad(pixels, (0, -width % multiple, 0, -height % multiple))
        return ImageList(pixels.to(self.dtype), sizes)

    def _masks(
        self, encoded: Encoded, logits: Tensor, scores: Tensor, query: Tensor
    ) -> tuple[Tensor, ...]:
        """Predict the masks that are needed, those first, a few queries at a time."""
        model = self.model
        is_kept = (scores >= self.score_threshold).float()
        is_needed = (
            torch.zeros_like(logits[..., 0]).float().scatter_reduce(1, query, is_kept, "amax")
        )
        if self.is_panoptic:
            segment_scores, segment_classes = model.classification.score(logits)
            is_segment = model.classification.is_object(logits, segment_classes) & (
                segment_scores > model.segmenter.panoptic_threshold
            )
            is_needed = is_needed.maximum(is_segment.float())
            nothing = torch.full_like(segment_classes, model.num_classes)
            segment_classes = segment_classes.where(is_segment, nothing)
        # Each group in its own order, by keys that differ: ONNX has no stable sort.
        number = is_needed.shape[1]
        keys = is_needed * number - torch.arange(number, device=is_needed.device)
        order = keys.argsort(dim=1, descending=True)
        is_needed = is_needed.gather(1, order)
        inputs = model.mask_inputs(encoded)

        def predict(queries: Tensor) -> Tensor:
            image = torch.arange(queries.shape[0])[:, None].expand_as(queries).flatten()
            masks = model.mask_head(inputs, image, queries.flatten())
            return masks.float().unflatten(0, queries.shape)

        def leave_out(queries: Tensor) -> Tensor:
            return inputs.laterals[-1].new_zeros(
                *queries.shape, *inputs.laterals[-1].shape[-2:], dtype=torch.float32
            )

        masks = []
        for queries, need in zip(
            order.split(QUERIES_PER_PASS, 1), is_needed.split(QUERIES_PER_PASS, 1), strict=True
        ):
            if torch.compiler.is_exporting():
                masks.append(torch.cond((need > 0).any(), predict, leave_out, (queries,)))
            else:  # tracing knows no branches
                masks.append(predict(queries))
        index = order.argsort(1).gather(1, query)
        if not self.is_panoptic:
            return torch.cat(masks, 1), index
        by_mask = segment_scores.gather(1, order), segment_classes.gather(1, order)
        return torch.cat(masks, 1), index, *by_mask


def fold_norms(network: nn.Module) -> None:
    """Make one convolution of every frozen normalisation and the convolution before it, in place.

    The graph of an exporter then holds the product and not its making.
    """
    for conv in network.modules():
        if isinstance(conv, FoldedConv2d):
            weight, bias = (x.detach().clone() for x in conv.folded())
            conv.__class__ = Conv2d
            conv.norm = None
            conv.weight = nn.Parameter(weight, requires_grad=False)
            conv.bias = nn.Parameter(bias, requires_grad=False)
