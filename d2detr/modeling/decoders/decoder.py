"""What all decoders have in common: learned queries, and the loop over the layers."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.modeling.heads import Heads
from d2detr.modeling.options import layer_options
from d2detr.modeling.queries import Decoded, Memory, Queries
from d2detr.modeling.registry import NamedRegistry

DECODER_REGISTRY = NamedRegistry("DECODER", "A decoder")


class Decoder(nn.Module):
    """Learned queries and the layers that turn them into one embedding per object.

    A decoder says how a layer is made, how queries start, and how a layer's positions follow from
    them. ``docs/decoders.md`` shows one.

    Attributes:
        refines: whether every layer's boxes are the next one's references.
        looks_forward_twice: of those that refine, whether the error of a layer's boxes also teaches
            the layer before, whose boxes they started from (DINO, section 3.5).
        has_boxes: whether references are boxes and not points, so that boxes can be queries.
        takes_proposals: whether queries can start from boxes that the encoder proposes.
        reference_eps: of the inverse sigmoid of references, or None without references.
        size_bias: what the sizes of a layer's boxes start from where references are points, before
            the sigmoid.

    Args:
        num_layers: L, at least 1.
        num_queries: Q, the most objects that can be found in an image.
        embed_dim: width D of all tokens.
        query_dim: width of a learned query; None is D, and 0 learns none.
        num_heads: attention heads; must divide ``embed_dim``.
        layer_options: how layers are made: ``feedforward_dim``, ``dropout``, ``pre_norm`` and
            ``activation``.

    Raises:
        UserError: an argument makes no sense.
    """

    refines = False
    looks_forward_twice = True
    has_boxes = False
    takes_proposals = False
    reference_eps: float | None = None
    size_bias = 0.0

    @configurable
    def __init__(
        self,
        *,
        num_layers: int = 6,
        num_queries: int = 100,
        embed_dim: int = 256,
        query_dim: int | None = None,
        num_heads: int = 8,
        **layer_options: Any,
    ):
        super().__init__()
        for name, value in (("num_layers", num_layers), ("num_queries", num_queries)):
            if value < 1:
                raise UserError(f"{name} of the decoder is {value}, but must be at least 1.")
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        layer_options |= {"embed_dim": embed_dim, "num_heads": num_heads}
        query_dim = embed_dim if query_dim is None else query_dim
        self.query_embed = nn.Embedding(num_queries, query_dim) if query_dim else None
        self.num_learned = num_queries
        self.layers = nn.ModuleList(self.make_layer(i, **layer_options) for i in range(num_layers))
        self.norm = nn.LayerNorm(embed_dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments for a config with DETR's keys."""
        detr = cfg.MODEL.DETR
        return {
            "num_layers": detr.DEC_LAYERS,
            "num_queries": detr.NUM_OBJECT_QUERIES,
            "embed_dim": detr.HIDDEN_DIM,
            **layer_options(cfg),
        }

    @property
    def num_queries(self) -> int:
        """How many predictions there are for an image."""
        return self.num_learned

    def make_layer(self, index: int, **options: Any) -> nn.Module:
        """Return a layer, to be called with content, position, memory and the queries' mask.

        Args:
            index: of the layer, from 0.
            options: ``embed_dim``, ``num_heads`` and the ``layer_options``.
        """
        raise NotImplementedError

    def start(self, batch_size: int) -> Queries:
        """Return the queries for a batch of images."""
        raise NotImplementedError

    def start_from(self, boxes: Tensor, queries: Queries) -> Queries:
        """Give the decoder's own queries the places that the encoder proposes.

        Args:
            boxes: (B, Q, 4) of the decoder's own queries.
            queries: of :meth:`start`, perhaps with more at their end.
        """
        reference = torch.cat((boxes, queries.reference[:, self.num_queries :]), 1)
        return queries._replace(reference=reference)

    def position(
        self, index: int, content: Tensor, queries: Queries, reference: Tensor | None, view: Any
    ) -> Any:
        """Return where the queries are, as a layer takes it.

        Args:
            index: of the layer.
            content: (B, Q, D) what the queries hold before it.
            queries: that the decoder started from.
            reference: (B, Q, 2 or 4) of the queries before the layer.
            view: of the memory, as the layer is given it.
        """
        return queries.position

    def views(self, memory: Memory) -> Sequence[Any]:
        """Return what each layer is given of the memory."""
        return [memory] * len(self.layers)

    def forward(self, queries: Queries, memory: Memory, heads: Heads) -> Decoded:
        """Decode.

        Args:
            queries: of :meth:`start`, perhaps with more.
            memory: of the encoder.
            heads: give the boxes from which references are refined.
        """
        content, reference = queries.content, queries.reference
        hs, references = [], []
        layers = zip(self.layers, self.views(memory), strict=True)
        for index, (layer, view) in enumerate(layers):
            # Boxes learn where they started from, and layers only from where they look.
            seen = reference.detach() if index and self.refines else reference
            position = self.position(index, content, queries, seen, view)
            content = layer(content, position, view, queries.mask)
            hs.append(self.norm(content))
            references.append(reference if self.looks_forward_twice else seen)
            if self.refines and index + 1 < len(self.layers):
                reference = heads.of_layer(index).predict_boxes(content, seen)
        return Decoded(torch.stack(hs), _stack_references(references))


def _stack_references(references: list[Tensor | None]) -> Tensor | None:
    if references[0] is None:
        return None
    dim = references[-1].shape[-1]
    # A point beside boxes: to a size of a half, which is the sigmoid of 0, boxes add as to none.
    return torch.stack([F.pad(x, (0, dim - x.shape[-1]), value=0.5) for x in references])


def build_decoder(cfg: CfgNode) -> Decoder:
    """Build the decoder that ``MODEL.DETR.DECODER`` names.

    Raises:
        UserError: there is no such decoder, or its settings make no sense.
    """
    return DECODER_REGISTRY.build(cfg)
