import torch
from torch import Tensor, nn

from d2detr.layers.cpu.frozen_norm import is_captured
from d2detr.layers.cpu.table_sampling import Shapes, are_few, sample_tables
from d2detr.layers.deformable_attention import DeformableAttention
from d2detr.layers.precision import at_least_float32


class TableDeformableAttention(DeformableAttention):
    """Deformable attention that looks cells up in tables, on a CPU."""

    def sample(
        self, value: Tensor, shapes: Shapes, reference: Tensor, offsets: Tensor, weights: Tensor
    ) -> Tensor:
        is_left_to_torch = (
            value.device.type != "cpu"
            or is_captured()
            or min(min(x) for x in shapes) < 2  # every place needs two cells in each direction
        )
        if is_left_to_torch:
            return super().sample(value, shapes, reference, offsets, weights)
        tables, weights = at_least_float32(value), weights.flatten(3)
        positions = offsets.flatten(3, 4).permute(4, 0, 1, 2, 3)
        around = [x[:, :, :, None] for x in _in_cells(reference, shapes, self.num_points)]
        if are_few(weights[0, :, 0].numel(), value.shape[1]):
            # One table of all heads needs no copy.
            tables, weights = tables.flatten(1, 2), weights.flatten(1, 2)
            positions = _move(positions, *around).flatten(2, 3)
            found = sample_tables(tables, positions, weights, shapes)
            found = found.unflatten(1, (-1, self.num_heads))
        else:
            # A table of each head stays in the cache.
            tables, weights = (x.transpose(1, 2).flatten(0, 1) for x in (tables, weights))
            positions, *around = (x.transpose(2, 3) for x in (positions, *around))
            positions = _move(positions, *around).flatten(1, 2)
            found = sample_tables(tables, positions, weights, shapes)
            found = found.unflatten(0, (-1, self.num_heads)).transpose(1, 2)
        return found.flatten(2).to(value.dtype)


def replace_deformable_attention(network: nn.Module) -> None:
    """Let every deformable attention below ``network`` look cells up in tables, in place."""
    for module in network.modules():
        if type(module) is DeformableAttention:
            module.__class__ = TableDeformableAttention


def _in_cells(reference: Tensor, shapes: Shapes, num_points: int) -> list[Tensor]:
    """Centres and, of boxes, what their offsets are multiplied with: (2, B, Q, levels * points)."""
    sides = reference.new_tensor([(width, height) for height, width in shapes])
    cells = (reference.unflatten(-1, (-1, 2)) * sides[:, None]).permute(3, 4, 0, 1, 2)
    centre, *size = cells.repeat_interleave(num_points, -1)
    return [centre - 0.5, *(x * (0.5 / num_points) for x in size)]


def _move(offsets: Tensor, centre: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """Offsets from centres, contiguous."""
    offsets = offsets.contiguous()
    return centre + offsets if isinstance(scale, float) else torch.addcmul(centre, offsets, scale)
