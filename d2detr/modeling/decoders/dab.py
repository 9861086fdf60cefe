"""The decoder of DAB-DETR (Liu et al., ICLR 2022)."""

from typing import Any

from detectron2.config import configurable
from torch import Tensor, nn

from d2detr.layers import MLP, sine_of_reference
from d2detr.modeling.decoders.boxes import BoxDecoder
from d2detr.modeling.decoders.conditional import ConditionalLayer, Place
from d2detr.modeling.decoders.decoder import DECODER_REGISTRY
from d2detr.modeling.queries import Queries


@DECODER_REGISTRY.register("dab")
class DABDecoder(BoxDecoder):
    """Every layer looks at the boxes, as far around them as the contents say."""

    @configurable
    def __init__(self, *, embed_dim: int = 256, learns_boxes: bool = True, **options: Any):
        super().__init__(embed_dim=embed_dim, learns_boxes=learns_boxes, **options)
        if not learns_boxes:
            nn.init.zeros_(self.query_embed.weight)
        self.content_scale = MLP(embed_dim, embed_dim, embed_dim, 2)
        self.position_head = MLP(2 * embed_dim, embed_dim, embed_dim, 2)
        self.size_head = MLP(embed_dim, embed_dim, 2, 2)

    def make_layer(self, index: int, **options: Any) -> nn.Module:
        return ConditionalLayer(is_first=index == 0, **options)

    def position(
        self, index: int, content: Tensor, queries: Queries, reference: Tensor, view: Any
    ) -> Place:
        """Place the queries at their boxes; attention is as wide and high as the content says."""
        sine = sine_of_reference(reference, self.embed_dim // 2)
        spatial = sine[..., : self.embed_dim]  # y, then x
        if index:
            spatial = spatial * self.content_scale(content)
        width_height = self.size_head(content).sigmoid() / reference[..., 2:]
        stretch = width_height.flip(-1)[..., None]
        spatial = (spatial.unflatten(-1, (2, -1)) * stretch).flatten(-2)
        return Place(self.position_head(sine), spatial)
