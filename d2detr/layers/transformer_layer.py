from collections.abc import Callable

from torch import Tensor, nn

from d2detr.errors import UserError

_ACTIVATIONS = {"relu": nn.ReLU, "prelu": nn.PReLU}


class TransformerLayer(nn.Module):
    """What encoder and decoder layers share: the feed-forward part and the residual connection.

    Args:
        embed_dim: width D of all tokens.
        feedforward_dim: hidden width of the feed-forward part.
        dropout: probability, in [0, 1), of dropping hidden units and residual branches.
        pre_norm: normalise before each sub-layer instead of after it.
        activation: of the feed-forward part, "relu" or "prelu" (one learned slope).

    Raises:
        UserError: an argument makes no sense.
    """

    def __init__(
        self,
        *,
        embed_dim: int,
        feedforward_dim: int,
        dropout: float = 0.1,
        pre_norm: bool = False,
        activation: str = "relu",
    ):
        super().__init__()
        if not 0 <= dropout < 1:
            raise UserError(f"dropout is {dropout}; it must be at least 0 and below 1.")
        if activation not in _ACTIVATIONS:
            raise UserError(f"activation is {activation!r}; choose from {sorted(_ACTIVATIONS)}.")
        self.pre_norm = pre_norm
        self.linear1 = nn.Linear(embed_dim, feedforward_dim)
        self.activation = nn.Sequential(_ACTIVATIONS[activation](), nn.Dropout(dropout))
        self.linear2 = nn.Linear(feedforward_dim, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def residual(self, x: Tensor, norm: nn.Module, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        """Add ``sublayer(x)`` to ``x``, normalising before the sub-layer or after the sum."""
        if self.pre_norm:
            return x + self.dropout(sublayer(norm(x)))
        return norm(x + self.dropout(sublayer(x)))

    def feedforward(self, x: Tensor) -> Tensor:
        return self.linear2(self.activation(self.linear1(x)))
