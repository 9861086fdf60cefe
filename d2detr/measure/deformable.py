"""Deformable attention alone, to the cells of an image's feature pyramid."""

from types import SimpleNamespace

import torch
from torch import Tensor, nn

from d2detr.layers import DeformableAttention
from d2detr.layers.cpu import speed_up
from d2detr.measure.peer import import_transformers
from d2detr.measure.timing import Step
from d2detr.measure.workload import Workload

_STRIDES = (8, 16, 32, 64)


def our_deformable_attention(workload: Workload, *, of_cells: bool = False) -> Step:
    """Forward and backward of a decoder's queries or of all cells; returns the result."""
    attention, shapes = _attention(workload), _shapes(workload)
    speed_up(attention)
    query, reference, tokens = _inputs(workload, of_cells)

    def run() -> Tensor:
        with workload.autocast():
            result = attention(query, reference, tokens, None, shapes)
        return _backward(result, attention, query, reference, tokens)

    return run


def peer_deformable_attention(workload: Workload, *, of_cells: bool = False) -> Step:
    """The same with the peer."""
    import_transformers()
    from transformers.models.deformable_detr import modeling_deformable_detr as modeling

    own, shapes = _attention(workload), _shapes(workload)
    config = SimpleNamespace(
        d_model=workload.cfg.MODEL.DETR.HIDDEN_DIM,
        num_feature_levels=own.num_levels,
        disable_custom_kernels=False,
    )
    peer = modeling.DeformableDetrMultiscaleDeformableAttention(
        config, own.num_heads, own.num_points
    )
    peer.load_state_dict(own.state_dict())
    peer.to(workload.device)
    query, reference, tokens = _inputs(workload, of_cells)
    sizes = torch.tensor(shapes, device=workload.device)
    ends = sizes.prod(1).cumsum(0)
    starts = ends - sizes.prod(1)

    def run() -> Tensor:
        with workload.autocast():
            result, _ = peer(
                query,
                encoder_hidden_states=tokens,
                reference_points=reference,
                spatial_shapes=sizes,
                spatial_shapes_list=list(shapes),
                level_start_index=starts,
            )
        return _backward(result, peer, query, reference, tokens)

    return run


def _shapes(workload: Workload) -> tuple[tuple[int, int], ...]:
    height, width = workload.size
    return tuple((-(-height // x), -(-width // x)) for x in _STRIDES)


def _attention(workload: Workload) -> DeformableAttention:
    """Its queries look a cell or so beside where the heads look at first."""
    torch.manual_seed(0)
    detr = workload.cfg.MODEL.DETR
    attention = DeformableAttention(detr.HIDDEN_DIM, detr.NHEADS, num_levels=len(_STRIDES))
    for linear in (attention.sampling_offsets, attention.attention_weights):
        nn.init.normal_(linear.weight, std=detr.HIDDEN_DIM**-0.5)
    return attention.to(workload.device)


def _inputs(workload: Workload, of_cells: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries with references, and tokens."""
    generator = torch.Generator().manual_seed(1)
    shapes, detr = _shapes(workload), workload.cfg.MODEL.DETR
    num_cells = sum(height * width for height, width in shapes)
    if of_cells:
        grids = [torch.cartesian_prod(*((torch.arange(n) + 0.5) / n for n in x)) for x in shapes]
        reference = torch.cat(grids).flip(-1).expand(workload.batch, -1, -1)
    else:
        num_queries = detr.NUM_OBJECT_QUERIES
        reference = torch.rand(workload.batch, num_queries, 4, generator=generator)
    query, tokens = (
        torch.randn(workload.batch, n, detr.HIDDEN_DIM, generator=generator)
        for n in (reference.shape[1], num_cells)
    )
    reference = reference[:, :, None].repeat(1, 1, len(shapes), 1)
    query, reference, tokens = (x.to(workload.device) for x in (query, reference, tokens))
    # An encoder's references are not learned.
    return query.requires_grad_(), reference.requires_grad_(not of_cells), tokens.requires_grad_()


def _backward(result: Tensor, attention: nn.Module, *inputs: Tensor) -> Tensor:
    wanted = [x for x in (*inputs, *attention.parameters()) if x.requires_grad]
    torch.autograd.grad(result, wanted, torch.ones_like(result))
    return result.detach()
