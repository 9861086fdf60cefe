"""Deformable attention's sums of cells, and their gradients, as operations on rows of tables."""

import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Shapes = tuple[tuple[int, int], ...]

_BLOCK = 2**18  # places that are looked at together, so that all about them stays in the cache
_SORTING = 32  # numbers of a table that are summed in the time in which a place is sorted

with warnings.catch_warnings():
    # torch says once in a process that these are in beta.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0))


def sample_tables(
    tables: Tensor,
    positions: Tensor,
    weights: Tensor,
    shapes: Shapes,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Sum what is found at places of the levels, between cells interpolated, outside zero.

    Args:
        tables: (T, C, d), all cells of all levels, row by row.
        positions: (2, T, N, levels * points), x and y of the places, in cells; 0 is the centre of
            the first.
        weights: (T, N, levels * points), of the sum.
        shapes: height and width of every level, at least 2.
        mask: (T, C) True at cells that are not taken for zero, or None for all.

    Returns:
        The sums (T, N, d), and those of a table of ones (T, N).
    """
    return _SampleTables.apply(tables.contiguous(), positions, weights.contiguous(), shapes, mask)


class _Places(NamedTuple):
    """Between which cells some places are, and how near to each.

    Attributes:
        cells: of the joined tables, four times (T, N, places) int32: the upper left, the upper
            right, the lower left and the lower right ones.
        seen: for each of these, 0 where it is masked, else 1; or nothing.
        distance: (2, T, N, places), x and y from the upper left cell.
        near: (2, T, N, places), shares x and y of the left and the upper cells.
        far: (2, T, N, places), shares of the right and the lower cells.
    """

    cells: list[Tensor]
    seen: list[Tensor]
    distance: Tensor
    near: Tensor
    far: Tensor

    def shares(self, weights: Tensor) -> list[Tensor]:
        """The weights' parts for each of the cells."""
        (left, upper), (right, lower) = self.near, self.far
        shares = [x * y for x in (weights * upper, weights * lower) for y in (left, right)]
        return self.hide_masked(shares)

    def hide_masked(self, values: list[Tensor]) -> list[Tensor]:
        """Zero the values for cells that are masked, in place."""
        for x, seen in zip(values, self.seen, strict=False):
            x *= seen
        return values


class _SampleTables(torch.autograd.Function):
    """:func:`sample_tables`, which keeps its arguments alone for the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        tables: Tensor,
        positions: Tensor,
        weights: Tensor,
        shapes: Shapes,
        mask: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(tables, positions, weights, mask)
        ctx.set_materialize_grads(False)
        ctx.shapes = shapes
        size = weights.shape[:2]
        found, total = tables.new_zeros(*size, tables.shape[-1]), tables.new_zeros(size)
        for block, find in _blocks(positions, shapes, mask):
            places = find()
            table, result = tables[block].flatten(0, 1), found[block].flatten(0, 1)
            for cells, share in zip(places.cells, places.shares(weights[block]), strict=True):
                result += F.embedding_bag(
                    cells.flatten(0, 1),
                    table,
                    per_sample_weights=share.flatten(0, 1),
                    mode="sum",
                )
                total[block] += share.sum(-1)
        return found, total

    @staticmethod
    @once_differentiable
    def backward(
        ctx: FunctionCtx, grad: Tensor | None, grad_total: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        tables, positions, weights, mask = ctx.saved_tensors
        if grad is None:
            grad = tables.new_zeros(*weights.shape[:2], tables.shape[-1])
        grad = grad.contiguous()
        grad_positions, grad_weights = torch.empty_like(positions), torch.empty_like(weights)
        grad_tables = []
        for block, find in _blocks(positions, ctx.shapes, mask):
            places = find()
            table, rows, weight = tables[block], grad[block].flatten(0, 1), weights[block]
            _differentiate(
                places,
                [_products(rows, table.flatten(0, 1), x) for x in places.cells],
                weight,
                None if grad_total is None else grad_total[block, :, None],
                out=(grad_positions[:, block], grad_weights[block]),
            )
            shares, cells = places.shares(weight), places.cells
            del places  # before the sums take more
            if weight.numel() * _SORTING < table.numel():
                sums = _sum_at_few_cells(rows, cells, shares, table.shape)
            else:
                sums = _sum_at_all_cells(rows, cells[0], shares, table.shape, ctx.shapes)
            grad_tables.append(sums)
        joined = torch.cat(grad_tables) if len(grad_tables) > 1 else grad_tables[0]
        return joined, grad_positions, grad_weights, None, None


def _blocks(
    positions: Tensor, shapes: Shapes, mask: Tensor | None
) -> Iterator[tuple[slice, Callable[[], _Places]]]:
    """Some of the tables at a time, and what finds the places in them."""
    _, num_tables, num_queries, num_places = positions.shape
    sizes = [height * width for height, width in shapes]

    def at_places(values: list[int]) -> Tensor:
        """What the levels have, at all places of all queries: long rows are fast."""
        x = torch.tensor(values, dtype=torch.int32).repeat_interleave(num_places // len(shapes))
        return x.expand(num_queries, -1).contiguous()

    starts = at_places([sum(sizes[:i]) for i in range(len(sizes))])
    widths = at_places([width for _, width in shapes])
    last = torch.stack([at_places([side - 2 for side in x]) for x in zip(*shapes, strict=True)])
    last = last.flip(0)[:, None].to(positions.dtype)

    length = max(1, _BLOCK // (num_queries * num_places))
    tables = torch.arange(length, dtype=torch.int32)[:, None, None] * sum(sizes)

    def find(block: slice) -> _Places:
        position = positions[:, block]
        # What is not a number is looked for in the first cell, and found not to be one.
        corner = torch.minimum(position.floor().clamp_(min=0), last).nan_to_num_(0)
        distance = position - corner
        near = distance.abs().neg_().add_(1).relu_()
        far = (distance - 1).abs_().neg_().add_(1).relu_()
        x, y = corner.int()
        above = y.mul_(widths).add_(starts).add_(tables[: len(x)]).add_(x)
        below = above + widths
        cells = [above, above + 1, below, below + 1]
        seen = []
        if mask is not None:
            seen_cells = mask[block].flatten().to(distance.dtype)
            seen = [seen_cells.index_select(0, x.flatten()).view_as(x) for x in cells]
        return _Places(cells, seen, distance, near, far)

    for begin in range(0, num_tables, length):
        block = slice(begin, begin + length)
        yield block, partial(find, block)


def _differentiate(
    places: _Places,
    products: list[Tensor],
    weights: Tensor,
    grad_total: Tensor | None,
    *,
    out: tuple[Tensor, Tensor],
) -> None:
    """Write the gradients of positions and weights, from the gradients' products with cells."""
    grad_positions, grad_weights = out
    if grad_total is not None:
        for x in products:
            x += grad_total
    # What a larger share of each cell would change.
    a, b, c, d = places.hide_masked(products)
    (left, upper), (right, lower) = places.near, places.far
    above, below = left * a + right * b, left * c + right * d
    before, after = upper * a + lower * c, upper * b + lower * d
    torch.add(upper * above, lower * below, out=grad_weights)
    near, far = _slopes(places.distance)
    torch.mul(weights, near[0] * before + far[0] * after, out=grad_positions[0])
    torch.mul(weights, near[1] * above + far[1] * below, out=grad_positions[1])


def _slopes(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of near and far; in corners, those towards larger distances."""
    whole = distance.floor()
    before, within, after = (torch.eq(whole, x, out=torch.empty_like(whole)) for x in (-1, 0, 1))
    return before.sub_(within), within.sub_(after)


def _products(rows: Tensor, table: Tensor, cells: Tensor) -> Tensor:
    """Products of every row (N, d) with its cells (T, N / T, places) of a table."""
    ends = torch.arange(0, cells.numel() + 1, cells.shape[-1], dtype=torch.int32)
    result = torch.sparse_csr_tensor(
        ends,
        cells.flatten(),
        rows.new_zeros(cells.numel()),
        (len(rows), len(table)),
        check_invariants=False,
    )
    torch.sparse.sampled_addmm(result, rows, table.T, beta=0, out=result)
    return result.values().view_as(cells)


def _sum_at_few_cells(
    rows: Tensor, cells: list[Tensor], shares: list[Tensor], shape: torch.Size
) -> Tensor:
    """The sum at every cell (T, C, d) of the rows (N, d), times their shares in it."""
    num_places, places_of_row = shares[0].numel(), shares[0].shape[-1]
    ordered, order = torch.cat(cells).flatten().sort()
    ends = _ends(ordered, shape)
    share = torch.cat(shares).flatten().index_select(0, order)
    row = order.remainder_(num_places).div_(places_of_row, rounding_mode="floor").int()
    del ordered, order  # before the sums take more
    cells.clear()
    shares.clear()
    return _sum_segments(rows, row, share, ends).view(shape)


def _sum_at_all_cells(
    rows: Tensor, cells: Tensor, shares: list[Tensor], shape: torch.Size, shapes: Shapes
) -> Tensor:
    """The same of upper left cells, with fewer places to sort, but four times the sums."""
    ordered, order = cells.flatten().sort()
    row, ends = (order // shares[0].shape[-1]).int(), _ends(ordered, shape)
    upper, right, lower, lower_right = (
        _sum_segments(rows, row, x.flatten().index_select(0, order), ends) for x in shares
    )
    upper[1:] += right[:-1]
    lower[1:] += lower_right[:-1]
    upper, lower = upper.view(shape), lower.view(shape)
    start = 0
    for height, width in shapes:
        end = start + height * width
        upper[:, start + width : end] += lower[:, start : end - width]
        start = end
    return upper


def _ends(cells: Tensor, shape: torch.Size) -> Tensor:
    """Where the cells 0, 1, ... of tables (T, C, d) start among the sorted ones, and the end."""
    ends = torch.bincount(cells, minlength=shape[:2].numel()).cumsum(0, dtype=torch.int32)
    return F.pad(ends, (1, 0))


def _sum_segments(rows: Tensor, row: Tensor, share: Tensor, ends: Tensor) -> Tensor:
    return F.embedding_bag(
        row, rows, ends, per_sample_weights=share, mode="sum", include_last_offset=True
    )
