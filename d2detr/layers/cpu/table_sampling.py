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
        grads = [torch.empty_like(x) for x in (tables, positions, weights)]
        grad_tables, grad_positions, grad_weights = grads
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
            if are_few(weight.numel(), tables[block, :, 0].numel()):
                _sum_at_few_cells(rows, places, shares, out=grad_tables[block])
            else:
                _sum_at_all_cells(rows, places, shares, ctx.shapes, out=grad_tables[block])
        return *grads, None


def _blocks(
    positions: Tensor, shapes: Shapes, num_cells: int
) -> Iterator[tuple[slice, _Places]]:
    """Some of the tables at a time, and the places in them."""
    _, num_tables, num_queries, num_places = positions.shape
    num_points = num_places // len(shapes)
    step = num_cells // sum(height * width for height, width in shapes)

    def at_places(x: list[int]) -> Tensor:
        """Values of the levels, at all places of all queries."""
        x = torch.tensor(x, dtype=torch.int32).repeat_interleave(num_points)
        return x.expand(num_queries, -1).contiguous()

    starts, end = [], 0
    for height, width in shapes:
        starts.append(end)
        end += height * width * step
    last = torch.stack([at_places([x[i] - 2 for x in shapes]) for i in (1, 0)])[:, None]
    last = last.to(positions.dtype)
    row = at_places([width * step for _, width in shapes])
    start = at_places(starts) + (torch.arange(num_queries, dtype=torch.int32) % step)[:, None]
    size = max(1, _BLOCK // (num_queries * num_places))
    first = torch.arange(size, dtype=torch.int32)[:, None, None] * num_cells
    for begin in range(0, num_tables, size):
        block = slice(begin, begin + size)
        position = positions[:, block]
        # Not a number is somewhere, too.
        corner = torch.minimum(position.floor().clamp_(min=0), last).nan_to_num_(0)
        distance = position - corner
        near = distance.abs().neg_().add_(1).relu_()
        far = (distance - 1).abs_().neg_().add_(1).relu_()
        x, y = corner.int()
        above = y.mul_(row).add_(start).add_(first[: len(x)]).add_(x, alpha=step)
        yield block, _Places(above, above + row, step, distance, near, far)


def _corners(tables: Tensor, places: _Places) -> tuple[list[Tensor], list[Tensor]]:
    """Of the four cells around each place, the joined tables' rows and the places' in these."""
    rows = tables.flatten(0, 1)
    above, below = places.above, places.below
    return [rows, rows[places.step :]] * 2, [above, above, below, below]


def _slopes(distance: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives of near and far; in corners, those towards larger distances."""
    whole = distance.floor()
    before, within, after = ((whole == x).to(distance.dtype) for x in (-1, 0, 1))
    return before - within, within - after


def _products(rows: Tensor, table: Tensor, cells: Tensor) -> Tensor:
    """Products of every row (N, d) with its cells (T, N / T, places) of a table."""
    ends = torch.arange(0, cells.numel() + 1, cells.shape[-1], dtype=torch.int32)
    pattern = torch.sparse_csr_tensor(
        ends,
        cells.flatten(),
        rows.new_zeros(cells.numel()),
        (len(rows), len(table)),
        check_invariants=False,
    )
    return torch.sparse.sampled_addmm(pattern, rows, table.T, beta=0).values().view_as(cells)


def _sum_at_few_cells(rows: Tensor, places: _Places, shares: list[Tensor], *, out: Tensor) -> None:
    """Sum at every cell the rows that have a share in it: (T, C, d)."""
    above, below = places.above.flatten(), places.below.flatten()
    cells = torch.cat((above, above + places.step, below, below + places.step))
    cells, order = cells.sort()
    row = (order % above.numel()) // places.above.shape[-1]
    share = torch.cat([x.flatten() for x in shares]).index_select(0, order)
    out.copy_(_sum_segments(rows, row, share, cells, out.shape[:2].numel()).view_as(out))


def _sum_at_all_cells(
    rows: Tensor, places: _Places, shares: list[Tensor], shapes: Shapes, *, out: Tensor
) -> None:
    """The same, with a quarter of the cells to sort and four times the sums to make."""
    cells, order = places.above.flatten().sort()
    row = (order // places.above.shape[-1])
    num_cells = out.shape[:2].numel()
    shares = [x.flatten().index_select(0, order) for x in shares]
    upper, right, lower, lower_right = (
        _sum_segments(rows, row, x, cells, num_cells) for x in shares
    )
    step = places.step
    upper[step:] += right[:-step]
    lower[step:] += lower_right[:-step]
    lower = lower.view_as(out)
    out.copy_(upper.view_as(out))
    start = 0
    for height, width in shapes:
        end = start + height * width * step
        out[:, start + width * step : end] += lower[:, start : end - width * step]
        start = end


def _sum_segments(
    rows: Tensor, row: Tensor, share: Tensor, cells: Tensor, num_cells: int
) -> Tensor:
    ends = torch.bincount(cells, minlength=num_cells).cumsum(0, dtype=torch.int32)
    return F.embedding_bag(
        row.int(),
        rows,
        F.pad(ends, (1, 0)),
        per_sample_weights=share,
        mode="sum",
        include_last_offset=True,
    )
