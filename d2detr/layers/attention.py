from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.layers.dropout import dropout


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
            return self._attend(q, k, F.linear(value, value_weight, value_bias), mask)
        return self.attend_projected(query, *project_memory([self], key, value)[0], mask)

    def attend_projected(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
    ) -> Tensor:
        """Attend to keys and values of :func:`project_memory`."""
        embed_dim = self.out_proj.in_features
        q = F.linear(query, self.in_proj_weight[:embed_dim], self.in_proj_bias[:embed_dim])
        return self._attend(q, key, value, mask)

    def attend_to_one(self, value: Tensor) -> Tensor:
        """What any query gets from attending, without dropout, to values that are all the same.

        Args:
            value: (..., D), one of them.
        """
        embed_dim = self.out_proj.in_features
        weight, bias = self.in_proj_weight[-embed_dim:], self.in_proj_bias[-embed_dim:]
        return self.out_proj(F.linear(value, weight, bias))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (self._split_heads(x) for x in (q, k, v))
        if mask is not None:
            mask = mask[:, None, None, :]
        p = self.dropout if self.training else 0.0
        if p and q.device.type == "cpu":
            # Without a fused kernel for this on the CPU, our dropout is faster.
            weights = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
            if mask is not None:
                weights = weights.masked_fill(~mask, -torch.inf)
            attended = dropout(weights.softmax(-1), p) @ v
        else:
            attended = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=p)
        return self.out_proj(attended.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        """(B, N, D) to (B, heads, N, D / heads)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


def project_memory(
    attentions: Sequence[MultiheadAttention], keys: Tensor, values: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Project the memory for several layers' attention in two products, not in two per layer.

    Args:
        attentions: of L layers, of width D.
        keys: (B, S, D).
        values: (B, S, D).

    Returns:
        L pairs of projected keys and values, (B, S, D).
    """
    embed_dim = attentions[0].out_proj.in_features
    weights = [x.in_proj_weight.split(embed_dim) for x in attentions]
    biases = [x.in_proj_bias.split(embed_dim) for x in attentions]
    projected = (
        F.linear(x, torch.cat([w[part] for w in weights]), torch.cat([b[part] for b in biases]))
        for part, x in ((1, keys), (2, values))
    )
    return list(zip(*(x.split(embed_dim, dim=-1) for x in projected), strict=True))
