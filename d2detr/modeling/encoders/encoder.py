"""What all encoders have in common."""

from typing import Any

from detectron2.config import CfgNode, configurable
from torch import nn

from d2detr.errors import UserError
from d2detr.modeling.options import layer_options
from d2detr.modeling.queries import Memory
from d2detr.modeling.registry import NamedRegistry

ENCODER_REGISTRY = NamedRegistry("ENCODER", "An encoder")


class Encoder(nn.Module):
    """A stack of layers that relate cells; with pre-norm layers the output is normalised once more.

    Args:
        num_layers: 0 leaves the cells as they are.
        embed_dim: width D of all tokens.
        pre_norm: see :class:`TransformerLayer`.
        layer_options: how layers are made: ``num_heads``, ``feedforward_dim``, ``dropout``,
            ``activation`` and what an encoder of its own adds.

    Raises:
        UserError: an argument makes no sense.
    """

    @configurable
    def __init__(
        self,
        *,
        num_layers: int = 6,
        embed_dim: int = 256,
        pre_norm: bool = False,
        **layer_options: Any,
    ):
        super().__init__()
        if num_layers < 0:
            raise UserError(f"num_layers of the encoder is {num_layers}, but must be at least 0.")
        self.layers = nn.ModuleList(
            self.make_layer(embed_dim=embed_dim, pre_norm=pre_norm, **layer_options)
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim) if pre_norm else nn.Identity()

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments for a config with DETR's keys."""
        detr = cfg.MODEL.DETR
        return {
            "num_layers": detr.ENC_LAYERS,
            "embed_dim": detr.HIDDEN_DIM,
            **layer_options(cfg),
        }

    def make_layer(self, **options: Any) -> nn.Module:
        """Return a layer, made with ``embed_dim``, ``pre_norm`` and the ``layer_options``."""
        raise NotImplementedError

    def forward(self, cells: Memory) -> Memory:
        """Encode cells."""
        raise NotImplementedError


def build_encoder(cfg: CfgNode) -> Encoder:
    """Build the encoder that ``MODEL.DETR.ENCODER`` names.

    Raises:
        UserError: there is no such encoder, or its settings make no sense.
    """
    return ENCODER_REGISTRY.build(cfg)
