from types import SimpleNamespace

import pytest
import torch
from torch import nn

from d2detr.errors import UserError
from d2detr.layers import DeformableAttention, sample_levels

SHAPES = ((5, 7), (3, 4), (1, 2))


def num_cells(shapes=SHAPES):
    return sum(height * width for height, width in shapes)


def random_module(num_levels=3, **kwargs):
    module = DeformableAttention(16, 4, num_levels=num_levels, num_points=2, **kwargs)
    for x in module.parameters():
        nn.init.normal_(x, std=0.5)
    return module


def random_inputs(coordinates=2, batch=2, num_queries=6, shapes=SHAPES):
    return (
        torch.randn(batch, num_queries, 16),
        torch.rand(batch, num_queries, len(shapes), coordinates),
        torch.randn(batch, num_cells(shapes), 16),
    )


def random_mask(batch=2):
    return torch.rand(batch, num_cells()) < 0.7


def look_one_by_one(value, shapes, locations, weights):
    """What :func:`sample_levels` means, with one cell at a time."""
    batch, num_queries, num_heads, num_levels, num_points, _ = locations.shape
    result = torch.zeros(batch, num_queries, num_heads, value.shape[-1], dtype=value.dtype)
    for b, q, h in torch.cartesian_prod(*map(torch.arange, (batch, num_queries, num_heads))):
        start = 0
        for level, (height, width) in enumerate(shapes):
            for p in range(num_points):
                x, y = locations[b, q, h, level, p] * torch.tensor([width, height]) - 0.5
                for row in range(height):
                    for column in range(width):
                        share = (1 - (x - column).abs()).relu() * (1 - (y - row).abs()).relu()
                        cell = value[b, start + row * width + column, h]
                        result[b, q, h] += weights[b, q, h, level, p] * share * cell
            start += height * width
    return result.flatten(2)


def random_samples(dtype=torch.float64, shapes=SHAPES, num_queries=3):
    """Some of the places lie outside."""
    value = torch.randn(2, num_cells(shapes), 2, 3, dtype=dtype)
    locations = torch.rand(2, num_queries, 2, len(shapes), 2, 2, dtype=dtype) * 1.6 - 0.3
    weights = torch.randn(2, num_queries, 2, len(shapes), 2, dtype=dtype)
    return value, locations, weights


def test_interpolates_between_cells_and_finds_nothing_outside():
    torch.manual_seed(0)
    value, locations, weights = random_samples()
    expected = look_one_by_one(value, SHAPES, locations, weights)
    torch.testing.assert_close(sample_levels(value, SHAPES, locations, weights), expected)


def test_gradients():
    torch.manual_seed(0)
    samples = [x.requires_grad_() for x in random_samples()]
    assert torch.autograd.gradcheck(lambda v, x, w: sample_levels(v, SHAPES, x, w), samples)


@pytest.mark.parametrize("coordinates", [2, 4])
@pytest.mark.parametrize("is_masked", [True, False])
def test_equals_transformers_with_the_same_weights(coordinates, is_masked):
    modeling = pytest.importorskip("transformers.models.deformable_detr.modeling_deformable_detr")
    torch.manual_seed(0)
    own, (query, reference, tokens) = random_module(), random_inputs(coordinates)
    config = SimpleNamespace(d_model=16, num_feature_levels=3, disable_custom_kernels=True)
    peer = modeling.DeformableDetrMultiscaleDeformableAttention(config, num_heads=4, n_points=2)
    peer.load_state_dict(own.state_dict())
    mask = random_mask() if is_masked else None
    expected, _ = peer(
        query,
        attention_mask=mask,
        encoder_hidden_states=tokens,
        reference_points=reference,
        spatial_shapes=torch.tensor(SHAPES),
        spatial_shapes_list=list(SHAPES),
    )
    torch.testing.assert_close(own(query, reference, tokens, mask, SHAPES), expected)


def test_looks_in_directions_of_the_heads_at_first():
    module = DeformableAttention(32, 8, num_levels=2, num_points=4)
    offsets = module.sampling_offsets(torch.randn(32)).view(8, 2, 4, 2)
    eighths = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    expected = torch.tensor(eighths)[:, None, None] * torch.arange(1.0, 5)[:, None]
    torch.testing.assert_close(offsets, expected.expand(8, 2, 4, 2), atol=1e-5, rtol=0)
    assert not module.attention_weights(torch.randn(32)).any()
    for linear in (module.value_proj, module.output_proj):
        assert not linear.bias.any()
        assert 0.3 < linear.weight.abs().max() <= (6 / 64) ** 0.5


def test_masked_cells_are_not_seen():
    torch.manual_seed(0)
    module, (query, reference, tokens), mask = random_module(), random_inputs(), random_mask()
    other = torch.where(mask[..., None], tokens, torch.randn_like(tokens))
    results = [module(query, reference, x, mask, SHAPES) for x in (tokens, other)]
    torch.testing.assert_close(*results)
    assert not torch.allclose(results[0], module(query, reference, tokens, None, SHAPES))


def test_images_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    module, inputs, mask = random_module(), random_inputs(batch=3), random_mask(batch=3)
    together = module(*inputs, mask, SHAPES)
    for i in range(3):
        alone = module(*(x[i : i + 1] for x in inputs), mask[i : i + 1], SHAPES)
        torch.testing.assert_close(together[i : i + 1], alone)


def test_heads_that_do_not_divide_the_width():
    with pytest.raises(UserError, match="16 is not divisible by num_heads 3"):
        DeformableAttention(16, 3)


@pytest.mark.parametrize("coordinates", [2, 4])
def test_mixed_precision_is_close(coordinates):
    torch.manual_seed(0)
    module, inputs = random_module(), random_inputs(coordinates)
    expected = module(*inputs, None, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        result = module(*inputs, None, SHAPES)
    assert result.dtype == torch.bfloat16
    assert (result - expected).norm() < 0.03 * expected.norm()


def test_double_precision():
    torch.manual_seed(0)
    module, inputs = random_module(), random_inputs()
    expected = module.double()(*(x.double() for x in inputs), None, SHAPES)
    result = module.float()(*inputs, None, SHAPES)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(result.double(), expected, atol=1e-4, rtol=1e-4)


class OfMaps(nn.Module):
    """Deformable attention to the cells of feature maps, from which it takes the shapes."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention

    def forward(self, query, reference, first, second):
        maps = first, second
        tokens = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        return self.attention(query, reference, tokens, None, tuple(x.shape[-2:] for x in maps))


def random_maps(batch, shapes):
    query, reference, _ = random_inputs(batch=batch, shapes=shapes)
    return query, reference, *(torch.randn(batch, 16, *x) for x in shapes)


ANY_SIZE = ({0: "batch"}, {0: "batch"}) + ({0: "batch", 2: "height", 3: "width"},) * 2


def test_one_exported_program_serves_all_sizes():
    torch.manual_seed(0)
    network = OfMaps(random_module(num_levels=2)).eval()
    auto = torch.export.Dim.AUTO
    dynamic = tuple(dict.fromkeys(x, auto) for x in ANY_SIZE)
    example = random_maps(2, ((5, 7), (3, 4)))
    program = torch.export.export(network, example, dynamic_shapes=dynamic).module()
    inputs = random_maps(3, ((6, 4), (2, 5)))
    torch.testing.assert_close(program(*inputs), network(*inputs))


@pytest.mark.parametrize("dynamo", [True, False])
def test_one_onnx_model_serves_all_sizes(dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = OfMaps(random_module(num_levels=2)).eval()
    example = random_maps(2, ((5, 7), (3, 4)))
    path = str(tmp_path / "model.onnx")
    if dynamo:
        auto = torch.export.Dim.AUTO
        options = {"dynamic_shapes": tuple(dict.fromkeys(x, auto) for x in ANY_SIZE)}
    else:
        names = ["query", "reference", "first", "second"]
        axes = {
            name: {axis: f"{name}_{axis}" for axis in axes}
            for name, axes in zip(names, ANY_SIZE, strict=True)
        }
        options = {"input_names": names, "dynamic_axes": axes}
    torch.onnx.export(network, example, path, dynamo=dynamo, opset_version=18, **options)
    session = onnxruntime.InferenceSession(path)
    inputs = random_maps(3, ((6, 4), (2, 5)))
    named = {x.name: y.numpy() for x, y in zip(session.get_inputs(), inputs, strict=True)}
    (result,) = session.run(None, named)
    torch.testing.assert_close(torch.from_numpy(result), network(*inputs), atol=1e-5, rtol=1e-5)


def test_compiles_whole():
    torch.manual_seed(0)
    module, inputs = random_module(), random_inputs()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, None, SHAPES), module(*inputs, None, SHAPES))
