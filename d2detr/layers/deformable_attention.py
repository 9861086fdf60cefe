"""Attention to a few places of a feature pyramid (Deformable DETR, Zhu et al., ICLR 2021)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2detr.errors import UserError
from d2detr.layers.attention import check_heads
from d2detr.layers.precision import at_least_float32


class DeformableAttention(nn.Module):
    """Every query looks at a few places of every level, in every head, which it chooses itself.

    The gradient can be taken once, because that of ``grid_sample`` can.

    Args:
        embed_dim: width D of queries, tokens and output.
        num_heads: heads; must divide ``embed_dim``.
        num_levels: levels of the pyramid.
        num_points: places per level and head.

    Raises:
        UserError: ``num_heads`` does not divide ``embed_dim``, or there is nothing to look at.
    """

    def __init__(self, embed_dim: int, num_heads: int, *, num_levels: int = 4, num_points: int = 4):
        super().__init__()
        check_heads(embed_dim, num_heads)
        for name, value in (("num_levels", num_levels), ("num_points", num_points)):
            if value < 1:
                raise UserError(f"{name} is {value}, but must be at least 1.")
        self.num_heads = num_heads
        self.num_levels = num_levels
        self.num_points = num_points
        places = num_heads * num_levels * num_points
        self.sampling_offsets = nn.Linear(embed_dim, 2 * places)
        self.attention_weights = nn.Linear(embed_dim, places)
        self.value_proj = nn.Linear(embed_dim, embed_dim)
        self.output_proj = nn.Linear(embed_dim, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Heads look in different directions, and their points ever further."""
        for linear in (self.sampling_offsets, self.attention_weights):
            nn.init.zeros_(linear.weight)
        for linear in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(linear.weight)
        for linear in (self.attention_weights, self.value_proj, self.output_proj):
            nn.init.zeros_(linear.bias)
        angle = torch.arange(self.num_heads) * (2 * math.pi / self.num_heads)
        direction = torch.stack((angle.cos(), angle.sin()), -1)
        direction /= direction.abs().amax(-1, keepdim=True)
        distance = torch.arange(1, self.num_points + 1)
        offsets = direction[:, None, None] * distance[:, None]
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.num_levels, -1, -1).flatten())

    def forward(
        self,
        query: Tensor,
        reference: Tensor,
        tokens: Tensor,
        mask: Tensor | None,
        shapes: tuple[tuple[int, int], ...],
    ) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, D), content and position.
            reference: (B, Q, levels, 2) x, y or (B, Q, levels, 4) x, y, width, height in [0, 1] of
                the padded level: points are offset in cells, or in parts of the box.
            tokens: (B, S, D), all cells of all levels, row by row.
            mask: (B, S) True at unpadded cells, or None where nothing is padded.
            shapes: height and width of every level in cells.

        Returns:
            (B, Q, D).
        """
        offsets, weights = self._choose(query)
        reference = at_least_float32(reference)
        return self.output_proj(self.sample(tokens, mask, shapes, reference, offsets, weights))

    def places(
        self, query: Tensor, reference: Tensor, shapes: tuple[tuple[int, int], ...]
    ) -> tuple[Tensor, Tensor]:
        """Return where every query looks, and how much what is there counts.

        Takes what :meth:`forward` takes.

        Returns:
            (B, Q, heads, levels, points, 2) x, y, where [0, 1] is the padded level, and weights
            (B, Q, heads, levels, points), which sum to 1 over levels and points.
        """
        offsets, weights = self._choose(query)
        return _locate(at_least_float32(reference), offsets, shapes), weights

    def _choose(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Offsets and weights, see :meth:`sample`."""
        places = self.num_heads, self.num_levels, self.num_points
        offsets = at_least_float32(self.sampling_offsets(query)).unflatten(-1, (*places, 2))
        weights = at_least_float32(self.attention_weights(query))
        weights = weights.unflatten(-1, (self.num_heads, -1)).softmax(-1)
        return offsets, weights.unflatten(-1, places[1:])

    def sample(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        shapes: tuple[tuple[int, int], ...],
        reference: Tensor,
        offsets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Project the tokens and sum what is found around the references.

        Args:
            tokens: (B, S, D).
            mask: (B, S) or None.
            shapes: height and width of every level in cells.
            reference: (B, Q, levels, 2 | 4).
            offsets: (B, Q, heads, levels, points, 2), x, y in cells or in parts of the box.
            weights: (B, Q, heads, levels, points), of the sum.

        Returns:
            (B, Q, D).
        """
        locations = _locate(reference, offsets, shapes)
        return sample_levels(self.project(tokens, mask), shapes, locations, weights)

    def project(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """Tokens (B, S, D) to the values of each head (B, S, heads, d), of masked cells zero."""
        value = self.value_proj(tokens)
        if mask is not None:
            value = value.masked_fill(~mask[..., None], 0.0)
        return value.unflatten(-1, (self.num_heads, -1))


def sample_levels(
    value: Tensor, shapes: tuple[tuple[int, int], ...], locations: Tensor, weights: Tensor
) -> Tensor:
    """Sum what is found at places of the levels, between cells interpolated, outside zero.

    Args:
        value: (B, S, heads, d), all cells of all levels, row by row.
        shapes: height and width of every level in cells.
        locations: (B, Q, heads, levels, points, 2) x, y in [0, 1], at least float32.
        weights: (B, Q, heads, levels, points), of the sum.

    Returns:
        (B, Q, heads * d), in the precision of ``value``.
    """
    maps = at_least_float32(value).permute(0, 2, 3, 1).flatten(0, 1)
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)[:, None]
    result, start = 0, 0
    for level, (height, width) in enumerate(shapes):
        plane = maps[..., start : start + height * width].unflatten(-1, (height, width))
        found = F.grid_sample(plane, grids[:, :, level], align_corners=False)
        result = result + (found * weights[..., level, :]).sum(-1)
        start = start + height * width
    result = result.unflatten(0, (-1, value.shape[2])).permute(0, 3, 1, 2).flatten(2)
    return result.to(value.dtype)


def _locate(reference: Tensor, offsets: Tensor, shapes: tuple[tuple[int, int], ...]) -> Tensor:
    """Move references (B, Q, levels, 2 | 4) by offsets (B, Q, heads, levels, points, 2)."""
    centre, size = reference[:, :, None, :, None, :2], reference[:, :, None, :, None, 2:]
    if reference.shape[-1] == 2:
        # Sides are symbols or tensors where a graph is captured, which no tensor is made of.
        sides = [reference.new_full((), x) for height, width in shapes for x in (width, height)]
        return centre + offsets / torch.stack(sides).view(-1, 1, 2)
    return centre + offsets * size * (0.5 / offsets.shape[-2])
