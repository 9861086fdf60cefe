import torch
from torch import Tensor, nn

from d2detr.layers import MLP, at_least_float32, move_reference
from d2detr.modeling.classification import Classification


class PredictionHeads(nn.Module):
    """Class and box of every object embedding (paper, section 3.2), shared by all decoder layers.

    Args:
        embed_dim: width D of an object embedding.
        classification: decides the number C of logits and where they start.
        reference_eps: of the inverse sigmoid of the references that boxes start from; None if they
            start from nowhere.
        size_bias: what is first added to the sizes of references, before the sigmoid.
    """

    def __init__(
        self,
        embed_dim: int,
        classification: Classification,
        reference_eps: float | None = None,
        size_bias: float = 0.0,
    ):
        super().__init__()
        self.reference_eps = reference_eps
        self.class_embed = nn.Linear(embed_dim, classification.num_logits)
        classification.init_bias(self.class_embed.bias)
        self.bbox_embed = MLP(embed_dim, embed_dim, 4, num_layers=3)
        if reference_eps is not None:  # boxes are their references at first
            nn.init.zeros_(self.bbox_embed.layers[-1].weight)
            nn.init.zeros_(self.bbox_embed.layers[-1].bias)
            nn.init.constant_(self.bbox_embed.layers[-1].bias[2:], size_bias)

    def forward(self, hs: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
        """Predict.

        Args:
            hs: (L, B, Q, D) object embeddings.
            reference: (L, B, Q, 2) points or (L, B, Q, 4) boxes that boxes start from, or None.

        Returns:
            ``pred_logits`` (L, B, Q, C) and ``pred_boxes`` (L, B, Q, 4), see
            :meth:`predict_boxes`.
        """
        return {
            "pred_logits": self.class_embed(hs),
            "pred_boxes": self.predict_boxes(hs, reference),
        }

    def of_layer(self, index: int) -> "PredictionHeads":
        """Return the heads of a decoder layer."""
        return self

    def predict_boxes(self, hs: Tensor, reference: Tensor | None) -> Tensor:
        """Predict boxes (..., Q, 4), float32, from embeddings (..., Q, D) and references.

        They are centre, width and height relative to the unpadded image, in [0, 1].
        """
        # Half precision would place the corners of a 1333-pixel image 4 pixels apart.
        delta = at_least_float32(self.bbox_embed(hs))
        if reference is None:
            return delta.sigmoid()
        return move_reference(delta, reference, self.reference_eps)


class HeadsPerLayer(nn.ModuleList):
    """Heads of its own for every decoder layer.

    Args:
        num_layers: L.
        embed_dim: see :class:`PredictionHeads`, also for the others.
        classification: of the predictions.
        reference_eps: of the inverse sigmoid of the references.
        size_bias: of the first layer.
    """

    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        classification: Classification,
        reference_eps: float | None = None,
        size_bias: float = 0.0,
    ):
        biases = [size_bias, *[0.0] * (num_layers - 1)]
        super().__init__(
            PredictionHeads(embed_dim, classification, reference_eps, bias) for bias in biases
        )

    def forward(self, hs: Tensor, reference: Tensor | None = None) -> dict[str, Tensor]:
        """Predict from the last L layers; see :class:`PredictionHeads`."""
        starts = [None] * len(hs) if reference is None else reference
        predictions = [
            heads(*layer) for heads, *layer in zip(list(self)[-len(hs) :], hs, starts, strict=True)
        ]
        return {
            name: torch.stack([prediction[name] for prediction in predictions])
            for name in ("pred_logits", "pred_boxes")
        }

    def of_layer(self, index: int) -> PredictionHeads:
        """Return the heads of a decoder layer."""
        return self[index]


Heads = PredictionHeads | HeadsPerLayer
