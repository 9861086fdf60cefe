import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.errors import UserError


class ScaledDotProduct(nn.Module):
    """What every attention does with projected queries, keys and values, in each head.

    Args:
        num_heads: heads; divides the widths of queries, keys and values.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            q: (B, N, D).
            k: (B, S, D).
            v: (B, S, E); E may differ from D.
            mask: (B, S) True where a key may be attended to, or None for everywhere.
            query_mask: (N, S) True where a query may attend to a key, or None for everywhere.

        Returns:
            (B, N, E).
        """
        heads = (self._split_heads(x) for x in (q, k, v))
        attended = self.attend(*heads, _join_masks(mask, query_mask))
        return attended.transpose(1, 2).flatten(2)

    def weights(
        self, q: Tensor, k: Tensor, mask: Tensor | None = None, query_mask: Tensor | None = None
    ) -> Tensor:
        """Return how much every query attends to every key: (B, heads, N, S), float32.

        Takes what :meth:`forward` takes. Each row sums to 1, and is 0 where a mask is False.
        """
        q, k = (self._split_heads(x.float()) for x in (q, k))
        products = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        mask = _join_masks(mask, query_mask)
        if mask is not None:
            products = products.masked_fill(~mask, -torch.inf)
        return products.softmax(-1)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attend in every head: (B, heads, N, D / heads) and so on."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout)

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def _join_masks(mask: Tensor | None, query_mask: Tensor | None) -> Tensor | None:
    """One mask, as broadcast over (B, heads, N, S), of the two of :class:`ScaledDotProduct`."""
    if mask is not None:
        mask = mask[:, None, None, :]
    if query_mask is not None:
        mask = query_mask if mask is None else mask & query_mask
    return mask


class MultiheadAttention(nn.Module):
    """Multi-head attention on ``scaled_dot_product_attention``.

    Parameters have the names, shapes and initial values of ``nn.MultiheadAttention``, so weights
    are interchangeable. Unlike it, keys and values may come from different sums without a copy:
    DETR adds positions to queries and keys, never to values.

    Args:
        embed_dim: width D of queries, keys, values and output.
        num_heads: heads; must divide ``embed_dim``.
        dropout: probability of dropping an attention weight in training.

    Raises:
        UserError: ``num_heads`` does not divide ``embed_dim``.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.attend = ScaledDotProduct(num_heads, dropout)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        query_mask: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, N, D).
            key: (B, S, D); the same object as ``query`` in self-attention.
            value: (B, S, D).
            mask: (B, S) True where a key may be attended to, or None for everywhere.
            query_mask: (N, S) True where a query may attend to a key, or None for everywhere.

        Returns:
            (B, N, D).
        """
        embed_dim = self.out_proj.in_features
        if key is query:
            weight, value_weight = self.in_proj_weight.split((2 * embed_dim, embed_dim))
            bias, value_bias = self.in_proj_bias.split((2 * embed_dim, embed_dim))
            q, k = F.linear(query, weight, bias).chunk(2, dim=-1)
            v = F.linear(value, value_weight, value_bias)
        else:
            weights = self.in_proj_weight.split(embed_dim)
            biases = self.in_proj_bias.split(embed_dim)
            q, k, v = map(F.linear, (query, key, value), weights, biases)
        return self.out_proj(self.attend(q, k, v, mask, query_mask))


def check_heads(embed_dim: int, num_heads: int) -> None:
    """Raise a UserError unless every head gets an equal share of the features."""
    if embed_dim < 1 or num_heads < 1 or embed_dim % num_heads:
        raise UserError(
            f"embed_dim {embed_dim} is not divisible by num_heads {num_heads}: every attention "
            "head needs an equal share of the features."
        )
