"""The decoder of DINO (Zhang et al., ICLR 2023)."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from d2detr.layers import MLP, sine_of_reference
from d2detr.modeling.decoders.boxes import BoxDecoder
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY
from d2detr.modeling.decoders.deformable import (
    SampledMemory,
    SampledPlace,
    SamplingDecoder,
)
from d2detr.modeling.options import sampling_options
from d2detr.modeling.queries import Queries


@DECODER_REGISTRY.register("dino")
class DINODecoder(SamplingDecoder, BoxDecoder):
    """Every layer samples the levels within the boxes.

    Args:
        embed_dim: width D of all tokens.
        learns_boxes: whether boxes are learned, or contents, where proposals give the boxes.
        options: see :class:`BoxDecoder`, and ``num_levels`` and ``num_points`` of the samples.
    """

    @configurable
    def __init__(self, *, embed_dim: int = 256, learns_boxes: bool = True, **options: Any):
        super().__init__(embed_dim=embed_dim, learns_boxes=learns_boxes, **options)
        if not learns_boxes:
            nn.init.xavier_uniform_(self.query_embed.weight)
        self.position_head = MLP(2 * embed_dim, embed_dim, embed_dim, 2)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        return {**super().from_config(cfg), **sampling_options(cfg)}

    def position(
        self,
        index: int,
        content: Tensor,
        queries: Queries,
        reference: Tensor,
        view: SampledMemory,
    ) -> SampledPlace:
        in_levels = view.in_levels(reference)
        sine = sine_of_reference(in_levels[:, :, 0], self.embed_dim // 2)
        return SampledPlace(self.position_head(sine), in_levels)
