import torch
from torch import Tensor, nn

from d2detr.layers.cpu.frozen_norm import is_captured
from d2detr.layers.cpu.table_sampling import Shapes, sample_tables
from d2detr.layers.deformable_attention import DeformableAttention
from d2detr.layers.precision import at_least_float32


class TableDeformableAttention(DeformableAttention):
    """Deformable attention that looks cells up in tables, on a CPU."""

    def sample(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        shapes: Shapes,
        reference: Tensor,
        offsets: Tensor,
        weights: Tensor,
    ) -> Tensor:
        is_left_to_torch = (
            tokens.device.type != "cpu"
            or is_captured()
            or not offsets.numel()
            or min(min(x) for x in shapes) < 2  # every place needs two cells in each direction
        )
        if is_left_to_torch:
            return super().sample(tokens, mask, shapes, reference, offsets, weights)
        weights = weights.flatten(3)
        offsets = offsets.flatten(3, 4).permute(4, 0, 1, 2, 3)
        centre, scale = _in_cells(reference, shapes, self.num_points)
        positions = torch.addcmul(centre, offsets.transpose(2, 3).contiguous(), scale)
        weights = weights.transpose(1, 2)
        are_few = weights[0, 0].numel() < tokens.shape[1]
        if are_few and self._projects_plainly():
            found = self._project_sums(tokens, mask, shapes, positions, weights)
        else:
            found = self._sum_projected(tokens, mask, shapes, positions, weights)
        return found.transpose(1, 2).flatten(2)

    def _project_sums(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        shapes: Shapes,
        positions: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Project what was found: that of few queries is less than all cells."""
        sums = sample_tables(
            at_least_float32(tokens), positions.flatten(2, 3), weights.flatten(1, 2), shapes, mask
        )
        heads = self.num_heads, -1
        found, share = (x.to(tokens.dtype).unflatten(1, heads) for x in sums)
        weight, bias = (x.unflatten(0, heads) for x in self.value_proj.parameters())
        return found @ weight.transpose(1, 2) + share[..., None] * bias[:, None]

    def _sum_projected(
        self,
        tokens: Tensor,
        mask: Tensor | None,
        shapes: Shapes,
        positions: Tensor,
        weights: Tensor,
    ) -> Tensor:
        """Project all cells, to a table of each head, which stays in the cache."""
        value = self.project(tokens, mask)
        tables = at_least_float32(value).transpose(1, 2).flatten(0, 1)
        found, _ = sample_tables(tables, positions.flatten(1, 2), weights.flatten(0, 1), shapes)
        return found.unflatten(0, (-1, self.num_heads)).to(value.dtype)

    def _projects_plainly(self) -> bool:
        linear = self.value_proj
        is_hooked = linear._forward_hooks or linear._forward_pre_hooks
        return type(linear) is nn.Linear and not is_hooked


def replace_deformable_attention(network: nn.Module) -> None:
    """Let every deformable attention below ``network`` look cells up in tables, in place."""
    for module in network.modules():
        if type(module) is DeformableAttention:
            module.__class__ = TableDeformableAttention


def _in_cells(reference: Tensor, shapes: Shapes, num_points: int) -> tuple[Tensor, Tensor]:
    """Centres, and what offsets from these are multiplied with: (2, B, 1, Q, levels * points)."""
    sides = reference.new_tensor([(width, height) for height, width in shapes])
    centre = reference[..., :2] * sides - 0.5
    if reference.shape[-1] == 2:
        scale = torch.ones_like(centre)
    else:
        scale = reference[..., 2:] * sides * (0.5 / num_points)
    # Long rows are what elementwise operations are fast with.
    centre, scale = (
        x.repeat_interleave(num_points, 2).permute(3, 0, 1, 2)[:, :, None].contiguous()
        for x in (centre, scale)
    )
    return centre, scale
