import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.layers import at_least_float32


class MLP(nn.Module):
    """Linear layers with ReLU between them."""

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int, num_layers: int):
        super().__init__()
        dims = [in_dim, *[hidden_dim] * (num_layers - 1), out_dim]
        self.layers = nn.ModuleList(map(nn.Linear, dims[:-1], dims[1:]))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class PredictionHeads(nn.Module):
    """Class and box of every object embedding (paper, section 3.2), shared by all decoder layers.

    Args:
        embed_dim: width D of an object embedding.
        num_classes: K, without no-object.
    """

    def __init__(self, embed_dim: int, num_classes: int):
        super().__init__()
        self.class_embed = nn.Linear(embed_dim, num_classes + 1)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)

    def forward(self, hs: Tensor) -> dict[str, Tensor]:
        """Predict.

        Args:
            hs: (L, B, Q, D) object embeddings.

        Returns:
            ``pred_logits`` (L, B, Q, K+1), no-object last; ``pred_boxes`` (L, B, Q, 4), at
            least float32, centre, width and height relative to the unpadded image, in [0, 1].
        """
        return {
            "pred_logits": self.class_embed(hs),
            # Half precision would place the corners of a 1333-pixel image 4 pixels apart.
            "pred_boxes": at_least_float32(self.bbox_embed(hs)).sigmoid(),
        }
