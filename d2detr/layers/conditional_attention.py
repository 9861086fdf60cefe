"""Attention that projects content and position separately (Conditional DETR, Meng et al., 2021)."""

import torch
from torch import Tensor, nn

from d2detr.layers.attention import ScaledDotProduct, check_heads


class ContentPositionSelfAttention(nn.Module):
    """Self-attention whose queries and keys are sums of projected content and position.

    Args:
        embed_dim: width D of content, position and output.
        num_heads: heads; must divide ``embed_dim``.
        dropout: probability of dropping an attention weight in training.
    """

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.q_content = nn.Linear(embed_dim, embed_dim)
        self.q_position = nn.Linear(embed_dim, embed_dim)
        self.k_content = nn.Linear(embed_dim, embed_dim)
        self.k_position = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.attend = ScaledDotProduct(num_heads, dropout)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, content: Tensor, position: Tensor, query_mask: Tensor | None) -> Tensor:
        """Attend.

        Args:
            content: (B, Q, D).
            position: (B, Q, D).
            query_mask: (Q, Q) True where a query may attend to another, or None for everywhere.

        Returns:
            (B, Q, D).
        """
        q = self.q_content(content) + self.q_position(position)
        k = self.k_content(content) + self.k_position(position)
        return self.out_proj(self.attend(q, k, self.value(content), query_mask=query_mask))


class ConditionalCrossAttention(nn.Module):
    """Attention in which content meets content, and place meets place, side by side in each head.

    Args:
        embed_dim: width D of all inputs and of the output.
        num_heads: heads; must divide ``embed_dim``.
        dropout: probability of dropping an attention weight in training.
        adds_positions: also add projected positions to the contents.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        adds_positions: bool = False,
    ):
        super().__init__()
        check_heads(embed_dim, num_heads)
        self.num_heads = num_heads
        self.q_content = nn.Linear(embed_dim, embed_dim)
        self.q_position = nn.Linear(embed_dim, embed_dim) if adds_positions else None
        self.q_sine = nn.Linear(embed_dim, embed_dim)
        self.k_content = nn.Linear(embed_dim, embed_dim)
        self.k_position = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)
        self.attend = ScaledDotProduct(num_heads, dropout)
        self.out_proj = nn.Linear(embed_dim, embed_dim)
        nn.init.zeros_(self.out_proj.bias)

    def forward(
        self,
        content: Tensor,
        position: Tensor,
        spatial: Tensor,
        tokens: Tensor,
        pos: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Attend.

        Args:
            content: (B, Q, D) of the queries.
            position: (B, Q, D) of the queries; only read if positions are added.
            spatial: (B, Q, D) the place that a query looks at, encoded like ``pos``.
            tokens: (B, S, D) content of the memory.
            pos: (B, S, D) position of the memory.
            mask: (B, S) True at unpadded cells, or None where nothing is padded.

        Returns:
            (B, Q, D).
        """
        q, k, k_position = self.q_content(content), self.k_content(tokens), self.k_position(pos)
        if self.q_position is not None:
            q, k = q + self.q_position(position), k + k_position
        q = self._side_by_side(q, self.q_sine(spatial))
        k = self._side_by_side(k, k_position)
        return self.out_proj(self.attend(q, k, self.value(tokens), mask))

    def _side_by_side(self, content: Tensor, place: Tensor) -> Tensor:
        """Two times (B, N, D) to (B, N, 2D), every head with its share of both."""
        parts = [x.unflatten(-1, (self.num_heads, -1)) for x in (content, place)]
        return torch.cat(parts, -1).flatten(2)
