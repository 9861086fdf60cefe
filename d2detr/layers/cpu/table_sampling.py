"""Deformable attention's sums of cells, and their gradients, as operations on rows of tables."""

import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

Shapes = tuple[tuple[int, int], ...]

_BLOCK = 2**18  # places that are looked at together, so that all about them stays in the cache

with warnings.catch_warnings():
    # torch says once in a process that these are in beta.
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0], [], [], (0, 0))


def are_few(num_places: int, num_cells: int) -> bool:
    """Whether most of the cells are far from all places."""
    return num_places < num_cells


def sample_tables(tables: Tensor, positions: Tensor, weights: Tensor, shapes: Shapes) -> Tensor:
    """Sum what is found at places of the levels, between cells interpolated, outside zero.

    Args:
        tables: (T, C, d), all cells of all levels, row by row; with H heads in turn for each cell
            if C is H times the number of cells.
        positions: (2, T, N, levels * points), x and y of the places, in cells; 0 is the centre of
            the first. Query n looks at head n % H.
        weights: (T, N, levels * points), of the sum.
        shapes: height and width of every level, at least 2.

    Returns:
        (T, N, d).
    """
    return _SampleTables.apply(tables.contiguous(), positions, weights.contiguous(), shapes)


class _Places(NamedTuple):
    """Between which cells some places are, and how near to each.

    Attributes:
        above: (T, N, places) int32, the upper left cell in the joined tables.
        below: (T, N, places) int32, the lower left one.
        step: from any cell to the one on its right.
        distance: (2, T, N, places), x and y from the upper left cell.
        near: (2, T, N, places), shares x and y of the left and the upper cells.
        far: (2, T, N, places), shares of the right and the lower cells.
    """

    above: Tensor
    below: Tensor
    step: int
    distance: Tensor
    near: Tensor
    far: Tensor

    def shares(self, weights: Tensor) -> list[Tensor]:
        """The weights' parts for each cell: left and right of the upper ones, then the lower."""
        (left, upper), (right, lower) = self.near, self.far
        return [x * y for x in (weights * upper, weights * lower) for y in (left, right)]


class _SampleTables(torch.autograd.Function):
    """:func:`sample_tables`, which keeps its arguments alone for the backward pass."""

    @staticmethod
    def forward(
        ctx: FunctionCtx, tables: Tensor, positions: Tensor, weights: Tensor, shapes: Shapes
    ) -> Tensor:
        ctx.save_for_backward(tables, positions, weights)
        ctx.shapes = shapes
        found = tables.new_zeros(*weights.shape[:2], tables.shape[-1])
        for block, places in _blocks(positions, shapes, tables.shape[1]):
            result = found[block].flatten(0, 1)
            shares = places.shares(weights[block])
            for rows, cells, share in zip(*_corners(tables[block], places), shares, strict=True):
                result += F.embedding_bag(
                    cells.flatten(0, 1),
                    rows,
                    per_sample_weights=share.flatten(0, 1),
                    mode="sum",
                )
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
        tables, positions, weights = ctx.saved_tensors
        grad = grad.contiguous()
        grad_positions, grad_weights = torch.empty_like(positions), torch.empty_like(weights)
        grad_tables = []
        for block, places in _blocks(positions, ctx.shapes, tables.shape[1]):
            rows, weight = grad[block].flatten(0, 1), weights[block]
            # What more of each cell would change.
            a, b, c, d = (
                _products(rows, x, cells)
                for x, cells in zip(*_corners(tables[block], places), strict=True)
            )
            (left, upper), (right, lower) = places.near, places.far
            above, below = left * a + right * b, left * c + right * d
            before, after = upper * a + lower * c, upper * b + lower * d
            torch.add(upper * above, lower * below, out=grad_weights[block])
            near, far = _slopes(places.distance)
            torch.mul(weight, near[0] * before + far[0] * after, out=grad_positions[0, block])
            torch.mul(weight, near[1] * above + far[1] * below, out=grad_positions[1, block])
            shares = places.shares(weight)
            table = tables[block]
            if are_few(weight.numel(), table[:, :, 0].numel()):
                sums = _sum_at_few_cells(rows, places, shares, table.shape)
            else:
                sums = _sum_at_all_cells(rows, places, shares, table.shape, ctx.shapes)
            grad_tables.append(sums)
        joined = torch.cat(grad_tables) if len(grad_tables) > 1 else grad_tables[0]
        return joined, grad_positions, grad_weights, None


def _blocks(positions: Tensor, shapes: Shapes, num_cells: int) -> Iterator[tuple[slice, _Places]]:
    """Some of the tables at a time, and the places in them."""
    _, num_tables, num_queries, num_places = positions.shape
    step = num_cells // sum(height * width for height, width in shapes)

    def at_places(values: list[int]) -> Tensor:
        """What the levels have, at all places of all queries: long rows are fast."""
        x = torch.tensor(values, dtype=torch.int32).repeat_interleave(num_places // len(shapes))
        return x.expand(num_queries, -1).contiguous()

    sizes = [height * width for height, width in shapes]
    starts = at_places([step * sum(sizes[:i]) for i in range(len(sizes))])
    starts += (torch.arange(num_queries, dtype=torch.int32) % step)[:, None]  # the query's head
    row = at_places([step * width for _, width in shapes])
    last = torch.stack([at_places([side - 2 for side in x]) for x in zip(*shapes, strict=True)])
    last = last.flip(0)[:, None].to(positions.dtype)

    length = max(1, _BLOCK // (num_queries * num_places))
    tables = torch.arange(length, dtype=torch.int32)[:, None, None] * num_cells
    for begin in range(0, num_tables, length):
        block = slice(begin, begin + length)
        position = positions[:, block]
        # What is not a number is looked for in the first cell, and found not to be one.
        corner = torch.minimum(position.floor().clamp_(min=0), last).nan_to_num_(0)
        distance = position - corner
        near = distance.abs().neg_().add_(1).relu_()
        far = (distance - 1).abs_().neg_().add_(1).relu_()
        x, y = corner.int()
        above = y.mul_(row).add_(starts).add_(tables[: len(x)]).add_(x, alpha=step)
        yield block, _Places(above, above + row, step, distance, near, far)


def _corners(tables: Tensor, places: _Places) -> tuple[list[Tensor], list[Tensor]]:
    """Of the four cells around each place, the joined tables' rows and the places' in these."""
    rows = tables.flatten(0, 1)
    above, below = places.above, places.below
    return [rows, rows[places.step :]] * 2, [above, above, below, below]


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
    rows: Tensor, places: _Places, shares: list[Tensor], shape: torch.Size
) -> Tensor:
    """The sum at every cell (T, C, d) of the rows (N, d), times their shares in it."""
    above, below = places.above.flatten(), places.below.flatten()
    cells = torch.cat((above, above + places.step, below, below + places.step))
    cells, order = cells.sort()
    share = torch.cat(shares).flatten().index_select(0, order)
    row = (order % above.numel()) // places.above.shape[-1]
    return _sum_segments(rows, row, share, _ends(cells, shape)).view(shape)


def _sum_at_all_cells(
    rows: Tensor, places: _Places, shares: list[Tensor], shape: torch.Size, shapes: Shapes
) -> Tensor:
    """The same with a fourth of the places to sort, but four times the sums."""
    cells, order = places.above.flatten().sort()
    row, ends = (order // places.above.shape[-1]).int(), _ends(cells, shape)
    upper, right, lower, lower_right = (
        _sum_segments(rows, row, x.flatten().index_select(0, order), ends) for x in shares
    )
    step = places.step
    upper[step:] += right[:-step]
    lower[step:] += lower_right[:-step]
    upper, lower = upper.view(shape), lower.view(shape)
    start = 0
    for height, width in shapes:
        end, row_step = start + height * width * step, width * step
        upper[:, start + row_step : end] += lower[:, start : end - row_step]
        start = end
    return upper


def _ends(cells: Tensor, shape: torch.Size) -> Tensor:
    """Where the cells 0, 1, ... of tables (T, C, d) start among the sorted ones, and the end."""
    ends = torch.bincount(cells, minlength=shape[:2].numel()).cumsum(0, dtype=torch.int32)
    return F.pad(ends, (1, 0))


def _sum_segments(rows: Tensor, row: Tensor, share: Tensor, ends: Tensor) -> Tensor:
    return F.embedding_bag(
        row.int(), rows, ends, per_sample_weights=share, mode="sum", include_last_offset=True
    )
