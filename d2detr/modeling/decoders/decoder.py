"""What all decoders have in common: learned queries, and the loop over the layers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.config import CfgNode, configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.modeling.heads import PredictionHeads
from d2detr.modeling.queries import Decoded, Memory, Queries


class DecoderRegistry(Registry):
    """Detectron2's registry, with names that are shorter than the classes'."""

    def register(self, name: str | None = None) -> Callable[[type], type]:
        """Return a decorator that makes a decoder known by ``name``, or that of its class."""

        def remember(decoder: type) -> type:
            self._do_register(name or decoder.__name__, decoder)
            return decoder

        return remember


DECODER_REGISTRY = DecoderRegistry("DECODER")


class Decoder(nn.Module):
    """Learned queries and the layers that turn them into one embedding per object.

    A decoder says how a layer is made, how queries start, and how a layer's positions follow from
    them. ``docs/decoders.md`` shows one.

    Attributes:
        refines: whether every layer's boxes are the next one's references.
        has_boxes: whether references are boxes and not points, so that boxes can be queries.
        reference_eps: of the inverse sigmoid of references, or None without references.

    Args:
        num_layers: L, at least 1.
        num_queries: Q, the most objects that can be found in an image.
        embed_dim: width D of all tokens.
        query_dim: width of a learned query; None is D.
        num_heads: attention heads; must divide ``embed_dim``.
        layer_options: how layers are made: ``feedforward_dim``, ``dropout``, ``pre_norm`` and
            ``activation``.

    Raises:
        UserError: an argument makes no sense.
    """

    refines = False
    has_boxes = False
    reference_eps: float | None = None

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
        self.query_embed = nn.Embedding(num_queries, query_dim or embed_dim)
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
        return self.query_embed.num_embeddings

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

    def position(
        self, index: int, content: Tensor, queries: Queries, reference: Tensor | None
    ) -> Any:
        """Return where the queries are, as a layer takes it.

        Args:
            index: of the layer.
            content: (B, Q, D) what the queries hold before it.
            queries: that the decoder started from.
            reference: (B, Q, 2 or 4) of the queries before the layer.
        """
        return queries.position

    def views(self, memory: Memory) -> Sequence[Any]:
        """Return what each layer is given of the memory."""
        return [memory] * len(self.layers)

    def forward(self, queries: Queries, memory: Memory, heads: PredictionHeads) -> Decoded:
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
            content = layer(
                content, self.position(index, content, queries, seen), view, queries.mask
            )
            hs.append(self.norm(content))
            references.append(reference)
            if self.refines and index + 1 < len(self.layers):
                reference = heads.predict_boxes(content, seen)
        return Decoded(
            torch.stack(hs), None if queries.reference is None else torch.stack(references)
        )


def layer_options(cfg: CfgNode) -> dict[str, Any]:
    """Return how the layers of encoder and decoder are made for a config with DETR's keys."""
    detr = cfg.MODEL.DETR
    return {
        "num_heads": detr.NHEADS,
        "feedforward_dim": detr.DIM_FEEDFORWARD,
        "dropout": detr.DROPOUT,
        "pre_norm": detr.PRE_NORM,
        "activation": detr.ACTIVATION,
    }


def build_decoder(cfg: CfgNode) -> Decoder:
    """Build the decoder that ``MODEL.DETR.DECODER`` names.

    Raises:
        UserError: there is no such decoder, or its settings make no sense.
    """
    name = cfg.MODEL.DETR.DECODER
    if name not in DECODER_REGISTRY:
        names = ", ".join(sorted(name for name, _ in DECODER_REGISTRY))
        raise UserError(
            f"MODEL.DETR.DECODER is {name!r}; there are {names}. A decoder of another file is "
            "known once that file is imported."
        )
    return DECODER_REGISTRY.get(name)(cfg)
