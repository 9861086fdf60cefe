"""The Swin Transformer (Liu et al., ICCV 2021) of torchvision as a Detectron2 backbone."""

from collections.abc import Sequence

import torchvision
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import Tensor, nn

from d2detr.errors import UserError

NAMES = ("swin_t", "swin_s", "swin_b", "swin_v2_t", "swin_v2_s", "swin_v2_b")
_STAGES = {"p0": 1, "p1": 3, "p2": 5, "p3": 7}  # where each is among the network's parts


class Swin(Backbone):
    """A Swin Transformer whose stages' outputs are normalised.

    Its features have the names and the strides that Detectron2's own Swin gives them: "p0" (4) to
    "p3" (32). Images may have any size.

    Args:
        name: of the network in torchvision, such as "swin_t".
        out_features: of the stages.

    Raises:
        UserError: there is no such network, or no such feature.
    """

    def __init__(self, name: str = "swin_t", out_features: Sequence[str] = ("p1", "p2", "p3")):
        super().__init__()
        if name not in NAMES:
            raise UserError(f"MODEL.SWIN.NAME is {name!r}; choose from {', '.join(NAMES)}.")
        if not out_features or not set(out_features) <= set(_STAGES):
            raise UserError(
                f"MODEL.SWIN.OUT_FEATURES are {list(out_features)}; choose from {list(_STAGES)}."
            )
        network = getattr(torchvision.models, name)(weights=None)
        last = max(_STAGES[feature] for feature in out_features)
        self.features = network.features[: last + 1]
        width = self.features[0][0].out_channels
        self._out_features = [x for x in _STAGES if x in out_features]
        numbers = {feature: list(_STAGES).index(feature) for feature in self._out_features}
        self._out_feature_channels = {x: width * 2**number for x, number in numbers.items()}
        self._out_feature_strides = {x: 4 * 2**number for x, number in numbers.items()}
        self.norms = nn.ModuleDict(
            {x: nn.LayerNorm(self._out_feature_channels[x]) for x in self._out_features}
        )

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, 3, H, W) to features (B, C, h, w)."""
        outputs = {}
        names = {_STAGES[feature]: feature for feature in self._out_features}
        for index, part in enumerate(self.features):
            x = part(x)
            if index in names:
                name = names[index]
                outputs[name] = self.norms[name](x).permute(0, 3, 1, 2).contiguous()
        return outputs


@BACKBONE_REGISTRY.register()
def build_torchvision_swin_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> Swin:
    """Build the Swin Transformer that ``MODEL.SWIN`` describes."""
    return Swin(cfg.MODEL.SWIN.NAME, cfg.MODEL.SWIN.OUT_FEATURES)
