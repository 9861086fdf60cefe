import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiheadAttention(nn.Module):
    """Multi-head attention on ``scaled_dot_product_attention``.

    Parameters have the names, shapes and initial values of ``nn.MultiheadAttention``, so weights
    are interchangeable. Unlike it, keys and values may come from different sums without a copy:
    DETR adds positions to queries and keys, never to values.

    Args:
        embed_dim: width D of queries, keys, values and output.
        num_heads: heads; must divide ``embed_dim``.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * embed_dim, embed_dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * embed_dim))
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            query: (B, N, D).
            key: (B, S, D); the same object as ``query`` in self-attention.
            value: (B, S, D).
            mask: (B, S) True where a key may be attended to, or None for everywhere.

        Returns:
            (B, N, D).
        """
        embed_dim = self.out_proj.in_features
        if key is query:
            weight, value_weight = self.in_proj_weight.split((2 * embed_dim, embed_dim))
            bias, value_bias = self.in_proj_bias.split((2 * embed_dim, embed_dim))
            q, k = F.linear(query, weight, bias).chunk(2, dim=-1)
        else:
            weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
            q = F.linear(query, weights[0], biases[0])
            k = F.linear(key, weights[1], biases[1])
            value_weight, value_bias = weights[2], biases[2]
        v = F.linear(value, value_weight, value_bias)

        attended = F.scaled_dot_product_attention(
            *(self._split_heads(x) for x in (q, k, v)),
            attn_mask=None if mask is None else mask[:, None, None, :],
            dropout_p=self.dropout if self.training else 0.0,
        )
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
