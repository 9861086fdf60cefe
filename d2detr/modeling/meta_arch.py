import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.layers import CNNBlockBase
from detectron2.modeling import META_ARCH_REGISTRY, Backbone
from detectron2.structures import ImageList, Instances
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers import recompute_activations
from d2detr.layers.cpu import speed_up
from d2detr.modeling.backbone import dilates_first_block, res5_dilation
from d2detr.modeling.classification import Classification
from d2detr.modeling.criterion import Divisor, Group, SetCriterion
from d2detr.modeling.decoders import Decoder
from d2detr.modeling.denoising import Denoising, Noised
from d2detr.modeling.from_config import detr_from_config, naming_keys
from d2detr.modeling.heads import Heads, HeadsPerLayer, PredictionHeads
from d2detr.modeling.levels import build_projection, check_in_features, join_levels
from d2detr.modeling.mask_head import MaskHead, MaskInputs
from d2detr.modeling.postprocess import postprocess_boxes
from d2detr.modeling.postprocess_masks import Segmenter
from d2detr.modeling.queries import Decoded, Memory
from d2detr.modeling.targets import Targets
from d2detr.modeling.transformer import Transformer

logger = logging.getLogger(__name__)


@dataclass
class Encoded:
    """A batch after the transformer.

    Attributes:
        decoded: the embeddings of the decoder's queries of every layer.
        memory: what the encoder made of the projected features.
        src: (B, D, h, w) the projected feature map that a mask head looks at.
        features: the backbone's features.
        noised: which queries are noised objects, after the others; None if none are.
    """

    decoded: Decoded
    memory: Memory
    src: Tensor
    features: dict[str, Tensor]
    noised: Noised | None = None


@META_ARCH_REGISTRY.register()
class DETR(nn.Module):
    """End-to-End Object Detection with Transformers (Carion et al., ECCV 2020).

    Its state dict tells in its metadata what weights alone do not: the names of the classes, the
    numbers of attention heads and queries, and the dilation of the backbone.

    Args:
        backbone: any Detectron2 backbone.
        in_features: the backbone features that the transformer reads, fine to coarse.
        position_encoding: maps a padding mask (B, H, W) to an encoding (B, H, W, D).
        transformer: decides the width D of all tokens and the number of queries.
        classification: what the class head's logits mean; tells the number of classes.
        criterion: computes the losses; only training needs it.
        num_levels: feature maps of the transformer: ``in_features``, and coarser ones made of the
            last of them.
        heads_per_layer: whether every decoder layer has heads of its own.
        denoising: adds noised objects to the queries of training; None does not.
        mask_head: predicts masks; None detects boxes alone.
        segmenter: what inference does with the mask head's logits.
        freeze_box_model: train the mask head alone, on top of a trained box model.
        pixel_mean: per channel, subtracted from images in [0, 255].
        pixel_std: per channel, divides the difference.
        deep_supervision: train on every decoder layer's predictions, not on the last one's alone.
        score_threshold: detections with a lower score are dropped.
        detections_per_image: the best-scored detections to keep; 0 keeps one per query.
        class_names: of the K classes, where known: pretrained class rows are picked by them.
        dc5_first_block: "auto" if weights that are loaded decide whether the first block of a DC5
            backbone is dilated, or else "dilated" or "undilated", as ``backbone`` is already.
        activation_checkpointing: parts that compute activations again in the backward pass instead
            of storing them: any of "backbone", "encoder" and "decoder".
        compile: compile backbone and transformer.

    Raises:
        UserError: the parts do not fit together.
    """

    @naming_keys
    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        position_encoding: nn.Module,
        transformer: Transformer,
        classification: Classification,
        criterion: SetCriterion | None,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        num_levels: int = 1,
        heads_per_layer: bool = False,
        denoising: Denoising | None = None,
        deep_supervision: bool = True,
        score_threshold: float = 0.0,
        detections_per_image: int = 0,
        mask_head: MaskHead | None = None,
        segmenter: Segmenter | None = None,
        freeze_box_model: bool = False,
        class_names: Sequence[str] | None = None,
        dc5_first_block: str = "auto",
        activation_checkpointing: Sequence[str] = (),
        compile: bool = False,
    ):
        super().__init__()
        check_in_features(in_features, backbone)
        self.backbone = backbone
        self.in_features = tuple(in_features)
        self.position_encoding = position_encoding
        embed_dim = transformer.decoder.embed_dim
        channels = [backbone.output_shape()[name].channels for name in in_features]
        self.input_proj = build_projection(channels, embed_dim, num_levels)
        self.transformer = transformer
        self.heads = _build_heads(transformer.decoder, classification, heads_per_layer)
        self.denoising = denoising
        self.classification = classification
        self.criterion = criterion
        self.deep_supervision = deep_supervision
        self.score_threshold = score_threshold
        self.detections_per_image = detections_per_image
        if freeze_box_model:
            if mask_head is None:
                raise UserError(
                    "Without a mask_head nothing is left to train on a frozen box model: add one, "
                    "or leave out freeze_box_model."
                )
            self.requires_grad_(False)
            trained = sum(x.numel() for x in mask_head.parameters())
            logger.info(
                f"The box model is frozen; the {trained:,} parameters of the mask head learn."
            )
        self.mask_head = mask_head
        self.segmenter = segmenter or Segmenter(classification)
        self.class_names = class_names
        self.dc5_first_block = dc5_first_block
        speed_up(self)
        self._recompute_activations(activation_checkpointing)
        if compile:
            for part in (self.backbone, self.transformer):
                part.compile(dynamic=True)  # one compilation serves all image sizes
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode, backbone: Backbone | None = None) -> dict[str, Any]:
        return detr_from_config(cfg, backbone)

    @property
    def num_classes(self) -> int:
        """K, without no-object."""
        return self.classification.num_classes

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(
        self, batched_inputs: list[dict[str, Any]], divisor: Divisor | None = None
    ) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Train on a batch or detect objects in it.

        Args:
            batched_inputs: one dict per image with

                * ``image``: (C, H, W) in [0, 255], any dtype, on any device;
                * ``instances`` (training): Instances with ``gt_boxes``, ``gt_classes`` and, for a
                  mask head, ``gt_masks`` (BitMasks or PolygonMasks);
                * ``height``, ``width`` (inference, optional): the size that detections shall
                  refer to, if it is not the size of ``image``.
            divisor: :meth:`loss_divisor` of a larger batch, which the images are a part of; the
                losses of its parts then add up to those of the batch. None for a whole batch.

        Returns:
            In training the weighted losses (see :class:`SetCriterion`), whose sum is the total.
            In inference one dict per image with ``instances``: ``pred_boxes``, ``scores`` and
            ``pred_classes`` of as many detections as queries, unless limited. A mask head adds
            ``pred_masks`` and, if configured, ``panoptic_seg`` (see :class:`Segmenter`).
        """
        if not self.training:
            return self.inference(batched_inputs)

        images = self.preprocess_image(batched_inputs)
        targets = self._targets(batched_inputs, images)
        encoded = self.encode(images, targets)
        mask_inputs = self.mask_inputs(encoded)
        predict_masks = partial(self.mask_head, mask_inputs) if mask_inputs else None
        groups = self._group(encoded, targets, divisor or self.loss_divisor(batched_inputs))
        losses, metrics = self.criterion(groups, predict_masks)
        storage = _current_event_storage()
        if storage is not None:
            storage.put_scalars(**metrics)
        return losses

    @torch.no_grad()
    def inference(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detect objects; see :meth:`forward`."""
        if not batched_inputs:
            return []
        images = self.preprocess_image(batched_inputs)
        encoded = self.encode(images)
        sizes = [
            (x.get("height", size[0]), x.get("width", size[1]))
            for x, size in zip(batched_inputs, images.image_sizes, strict=True)
        ]
        outputs, mask_inputs = self.predict(encoded.decoded), self.mask_inputs(encoded)
        del encoded  # the backbone's features would take memory that masks can use
        return self._postprocess(outputs, mask_inputs, images, sizes)

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalise the images, pad them with zeros to one size and move them to the device."""
        images = [
            (x["image"].to(self.device, non_blocking=True) - self.pixel_mean) / self.pixel_std
            for x in batched_inputs
        ]
        options = {}
        if getattr(self.backbone, "padding_constraints", None):
            options["padding_constraints"] = self.backbone.padding_constraints
        return ImageList.from_tensors(images, self.backbone.size_divisibility, **options)

    def encode(self, images: ImageList, targets: Targets | None = None) -> Encoded:
        """Run everything up to the prediction heads.

        Args:
            images: of :meth:`preprocess_image`, or with a tensor (B, 2) as ``image_sizes``.
            targets: their objects, for denoising; None does without.
        """
        features = self.backbone(images.tensor.contiguous(memory_format=torch.channels_last))
        maps = self.input_proj([features[name] for name in self.in_features])
        cells = join_levels(maps, images, self.position_encoding, _has_padding(images))
        queries, noised = self.transformer.decoder.start(cells.tokens.shape[0]), None
        if self.denoising is not None:
            queries, noised = self.denoising(queries, targets)
        decoded, memory = self.transformer(cells, queries, self.heads)
        return Encoded(decoded, memory, maps[self.mask_level], features, noised)

    @property
    def mask_level(self) -> int:
        """Index of the feature map that a mask head looks at: the backbone's coarsest."""
        return len(self.in_features) - 1

    def loss_divisor(
        self, batched_inputs: list[dict[str, Any]], exact_global_batch: bool = False
    ) -> Divisor:
        """Return what the losses of a batch are divided by, to be given with each part of it.

        Args:
            batched_inputs: the whole batch of this process; see :meth:`forward`.
            exact_global_batch: see :meth:`SetCriterion.divisor`.
        """
        counts, num_queries = self._count_objects(batched_inputs)
        return self.criterion.divisor(counts, num_queries, self.device, exact_global_batch)

    def own_divisor(self, batched_inputs: list[dict[str, Any]]) -> Divisor:
        """Return what the losses of a batch are divided by that no other process knows of.

        Args:
            batched_inputs: see :meth:`forward`.
        """
        return self.criterion.own_divisor(*self._count_objects(batched_inputs))

    def _count_objects(self, batched_inputs: list[dict[str, Any]]) -> tuple[list[int], int]:
        counts = [len(record.get("instances", ())) for record in batched_inputs]
        return counts, self.transformer.decoder.num_queries

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not hasattr(destination, "_metadata"):
            return
        facts = destination._metadata[prefix.removesuffix(".")]
        facts["classification"] = self.classification.name
        facts["num_heads"] = self.transformer.decoder.num_heads
        facts["num_queries"] = self.transformer.decoder.num_queries
        facts["res5_dilation"] = res5_dilation(self.backbone)
        facts["dilates_first_block"] = dilates_first_block(self.backbone)
        if self.class_names is not None:
            facts["class_names"] = list(self.class_names)

    def _targets(self, batched_inputs: list[dict[str, Any]], images: ImageList) -> Targets:
        """Join the ground truth of the images.

        Raises:
            UserError: an input has no ``instances``, or they do not fit the model.
        """
        for record in batched_inputs:
            if "instances" not in record:
                name = record.get("file_name", "without a name")
                raise UserError(
                    f"Image {name} has no 'instances' to train on. A mapper must give empty "
                    "Instances to images without objects; for inference call model.eval()."
                )
        return Targets.from_instances(
            [x["instances"] for x in batched_inputs],
            self.num_classes,
            self.device,
            mask_size=images.tensor.shape[-2:] if self.mask_head else None,
        )

    def _group(self, encoded: Encoded, targets: Targets, divisor: Divisor) -> list[Group]:
        """Predictions of queries, noised objects and cells, and what they shall be."""
        outputs = self.predict(encoded.decoded, all_layers=self.deep_supervision)
        logits, boxes = outputs["pred_logits"], outputs["pred_boxes"]
        own = slice(self.transformer.decoder.num_queries)
        groups = [Group(logits[:, :, own], boxes[:, :, own], targets, divisor=divisor)]
        if encoded.noised is not None:
            groups.append(encoded.noised.as_group(logits, boxes, targets, divisor))
        proposed = encoded.decoded.proposed
        if proposed is not None:
            groups.append(self.transformer.proposals.as_group(proposed, targets, divisor))
        return groups

    def predict(self, decoded: Decoded, all_layers: bool = False) -> dict[str, Tensor]:
        """Predictions of the last decoder layer or of all, with L in front."""
        chosen = decoded if all_layers else decoded.last_layer()
        return self.heads(chosen.hs, chosen.reference)

    def _recompute_activations(self, parts: Sequence[str]) -> None:
        layers = {
            "backbone": [x for x in self.backbone.modules() if isinstance(x, CNNBlockBase)],
            "encoder": self.transformer.encoder.layers,
            "decoder": self.transformer.decoder.layers,
        }
        for part in parts:
            if not layers.get(part):
                raise UserError(
                    f"activation_checkpointing names {part!r}, but must name some of "
                    f"{[name for name, found in layers.items() if len(found)]}."
                )
            for layer in layers[part]:
                recompute_activations(layer)

    def mask_inputs(self, encoded: Encoded) -> MaskInputs | None:
        """What the mask head reads of a batch; None without a mask head."""
        if self.mask_head is None:
            return None
        hs, memory = encoded.decoded.hs[-1], encoded.memory.level(self.mask_level)
        return self.mask_head.prepare(hs, memory, encoded.src, encoded.features)

    def _postprocess(
        self,
        outputs: dict[str, Tensor],
        mask_inputs: MaskInputs | None,
        images: ImageList,
        sizes: list,
    ) -> list[dict[str, Any]]:
        """Results of the first ``len(sizes)`` images."""
        logits, boxes = outputs["pred_logits"][-1], outputs["pred_boxes"][-1]
        detections = postprocess_boxes(
            logits[: len(sizes)],
            boxes[: len(sizes)],
            sizes,
            classification=self.classification,
            score_threshold=self.score_threshold,
            detections_per_image=self.detections_per_image,
            with_query_index=mask_inputs is not None,
        )
        if mask_inputs is None:
            return [{"instances": x} for x in detections]
        return self.segmenter(detections, logits, partial(self.mask_head, mask_inputs), images)


@META_ARCH_REGISTRY.register()
class Detr(DETR):
    """DETR under the name that the Detectron2 wrapper of the original release gives it."""


def _build_heads(decoder: Decoder, classification: Classification, per_layer: bool) -> Heads:
    options = (decoder.embed_dim, classification, decoder.reference_eps, decoder.size_bias)
    if per_layer:
        return HeadsPerLayer(len(decoder.layers), *options)
    return PredictionHeads(*options)


def _has_padding(images: ImageList) -> bool:
    # Sizes that are tensors are not known before the network runs: a graph always keeps the mask.
    if torch.jit.is_tracing() or isinstance(images.image_sizes, Tensor):
        return True
    return any(tuple(size) != tuple(images.tensor.shape[-2:]) for size in images.image_sizes)


def _current_event_storage() -> EventStorage | None:
    try:
        return get_event_storage()
    except AssertionError:  # Detectron2 0.6 has no other way to ask
        return None
