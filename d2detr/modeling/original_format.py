"""A DETR behind the interface of the original implementation's models, for code written for it."""

from __future__ import annotations

import io
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.structures import ImageList
from PIL import Image
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import box_cxcywh_to_xyxy
from d2detr.modeling.meta_arch import DETR
from d2detr.modeling.postprocess_masks import panoptic_segmentation


class OriginalFormat(nn.Module):
    """Takes and returns what the original's models do.

    Args:
        model: that computes.
    """

    def __init__(self, model: DETR):
        super().__init__()
        self.detr = model

    def forward(self, samples: Any) -> dict[str, Tensor]:
        """Predict.

        Args:
            samples: normalised images: a tensor (B, 3, H, W), a sequence of B tensors (3, H, W), or
                a padded batch with ``tensors`` and ``mask`` (B, H, W), True at padding.

        Returns:
            ``pred_logits`` (B, Q, K + 1), no-object last; ``pred_boxes`` (B, Q, 4), centre, width
            and height in [0, 1] of the image without padding; and of a model with masks
            ``pred_masks`` (B, Q, h, w) logits.
        """
        encoded = self.detr.encode(_as_image_list(samples).to(self.detr.device))
        predicted = self.detr.predict(encoded.decoded)
        outputs = {name: predicted[name][-1] for name in ("pred_logits", "pred_boxes")}
        if self.detr.mask_head is not None:
            inputs = self.detr.mask_inputs(encoded)
            count, num_queries = outputs["pred_logits"].shape[:2]
            image = torch.arange(count, device=self.detr.device).repeat_interleave(num_queries)
            query = torch.arange(num_queries, device=self.detr.device).repeat(count)
            masks = self.detr.mask_head(inputs, image, query)
            outputs["pred_masks"] = masks.unflatten(0, (count, num_queries))
        return outputs


def _as_image_list(samples: Any) -> ImageList:
    if hasattr(samples, "tensors"):
        mask = samples.mask
        if mask is None:
            mask = torch.zeros_like(samples.tensors[:, 0], dtype=torch.bool)
        sizes = [(int((~x[:, 0]).sum()), int((~x[0]).sum())) for x in mask]
        return ImageList(samples.tensors, sizes)
    if not len(samples) or any(image.ndim != 3 for image in samples):
        raise UserError("Images must be a tensor (B, 3, H, W) or a list of tensors (3, H, W).")
    return ImageList.from_tensors(list(samples))


class BoxPostprocessor(nn.Module):
    """From the predictions of :class:`OriginalFormat` to boxes in pixels."""

    @torch.no_grad()
    def forward(self, outputs: dict[str, Tensor], target_sizes: Tensor) -> list[dict[str, Tensor]]:
        """Return ``scores``, ``labels`` and ``boxes`` (XYXY) of every query of each image.

        Args:
            outputs: of the model.
            target_sizes: (B, 2) height and width in pixels that boxes shall refer to.
        """
        scores, labels = outputs["pred_logits"].softmax(-1)[..., :-1].max(-1)
        height, width = target_sizes.to(scores).unbind(1)
        scale = torch.stack((width, height, width, height), dim=1)[:, None]
        boxes = box_cxcywh_to_xyxy(outputs["pred_boxes"]) * scale
        found = zip(scores, labels, boxes, strict=True)
        return [{"scores": s, "labels": c, "boxes": b} for s, c, b in found]


class PanopticPostprocessor(nn.Module):
    """From the predictions of :class:`OriginalFormat` to COCO's panoptic format.

    Args:
        thing_classes: which classes are things.
        threshold: only queries with a higher score become segments.
    """

    def __init__(self, thing_classes: Collection[int], threshold: float = 0.85):
        super().__init__()
        self.thing_classes = thing_classes
        self.threshold = threshold

    @torch.no_grad()
    def forward(
        self,
        outputs: dict[str, Tensor],
        processed_sizes: Sequence,
        target_sizes: Sequence | None = None,
    ) -> list[dict[str, Any]]:
        """Return ``png_string`` and ``segments_info`` of each image.

        Args:
            outputs: of the model.
            processed_sizes: height and width of the images that the model was given.
            target_sizes: height and width of the segmentations; default: ``processed_sizes``.
        """
        results = []
        for index, size in enumerate(processed_sizes):
            scores, classes = outputs["pred_logits"][index].softmax(-1).max(-1)
            no_object = outputs["pred_logits"].shape[-1] - 1
            kept = (classes != no_object) & (scores > self.threshold)
            size = tuple(int(side) for side in size)
            target = size if target_sizes is None else target_sizes[index]
            ids, segments = panoptic_segmentation(
                outputs["pred_masks"][index][kept],
                scores[kept],
                classes[kept],
                thing_classes=self.thing_classes,
                padded_size=size,
                image_size=size,
                output_size=tuple(int(side) for side in target),
            )
            # The original counts segments from 0.
            numbered = [{**segment, "id": segment["id"] - 1} for segment in segments]
            for segment in numbered:
                del segment["score"]
            png = _as_png((ids - 1).clamp(min=0).cpu().numpy())
            results.append({"png_string": png, "segments_info": numbered})
        return results


def _as_png(ids: np.ndarray) -> bytes:
    """Encode segment ids as colours: red + 256 * green + 256 ** 2 * blue."""
    colors = np.stack([ids, ids >> 8, ids >> 16], axis=-1).astype(np.uint8)
    with io.BytesIO() as file:
        Image.fromarray(colors).save(file, format="PNG")
        return file.getvalue()
