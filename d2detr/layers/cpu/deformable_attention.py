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
        offsets = offsets.flatten(3, 4).permute(4, 0, 1, 2, 3)
        centre, scale = _in_cells(reference, shapes, self.num_points)
        if are_few(weights[0, :, 0].numel(), value.shape[1]):
            # One table of all heads needs no copy.
            positions = _move(offsets, centre[:, :, :, None], scale[:, :, :, None])
            found = sample_tables(
                tables.flatten(1, 2), positions.flatten(2, 3), weights.flatten(1, 2), shapes
            )
            found = found.unflatten(1, (-1, self.num_heads))
        else:
            # A table of each head stays in the cache.
            positions = _move(offsets.transpose(2, 3), centre[:, :, None], scale[:, :, None])
            tables, weights = (x.transpose(1, 2).flatten(0, 1) for x in (tables, weights))
            found = sample_tables(tables, positions.flatten(1, 2), weights, shapes)
            found = found.unflatten(0, (-1, self.num_heads)).transpose(1, 2)
        return found.flatten(2).to(value.dtype)


def replace_deformable_attention(network: nn.Module) -> None:
    """Let every deformable attention below ``network`` look cells up in tables, in place."""
    for module in network.modules():
        if type(module) is DeformableAttention:
            module.__class__ = TableDeformableAttention


def _in_cells(reference: Tensor, shapes: Shapes, num_points: int) -> tuple[Tensor, Tensor]:
    """Centres, and what offsets from these are multiplied with: (2, B, Q, levels * points)."""
    sides = reference.new_tensor([(width, height) for height, width in shapes])
    centre = reference[..., :2] * sides - 0.5
    if reference.shape[-1] == 2:
        scale = torch.ones_like(centre)
    else:
        scale = reference[..., 2:] * sides * (0.5 / num_points)
    # Long rows are what elementwise operations are fast with.
    centre, scale = (
        x.repeat_interleave(num_points, 2).permute(3, 0, 1, 2).contiguous() for x in (centre, scale)
    )
    return centre, scale


def _move(offsets: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(centre, offsets.contiguous(), scale)
