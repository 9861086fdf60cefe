import copy
from itertools import product

import pytest
import torch
from torch import nn

from d2detr.layers import DeformableAttention
from d2detr.layers.cpu import speed_up

SHAPES = ((6, 7), (3, 4), (2, 2))
NUM_CELLS = 42 + 12 + 4
# Queries with far fewer, with fewer and with more places than cells: each has its own way.
VERY_FEW, FEW, MANY = 1, 5, 40


def random_pair(shapes=SHAPES):
    plain = DeformableAttention(16, 4, num_levels=len(shapes), num_points=2)
    for x in plain.parameters():
        nn.init.normal_(x, std=0.5)
    return plain, sped_up(plain)


def sped_up(plain):
    fast = copy.deepcopy(plain)
    speed_up(fast)
    return fast


def random_inputs(num_queries, coordinates=2, batch=2, dtype=torch.float32):
    return [
        torch.randn(batch, num_queries, 16, dtype=dtype, requires_grad=True),
        torch.rand(batch, num_queries, len(SHAPES), coordinates, dtype=dtype, requires_grad=True),
        torch.randn(batch, NUM_CELLS, 16, dtype=dtype, requires_grad=True),
    ]


def results_and_gradients(module, inputs, mask=None, shapes=SHAPES):
    result = module(*inputs, mask, shapes)
    cotangent = torch.randn(result.shape, generator=torch.Generator().manual_seed(0)).to(result)
    wanted = [x for x in (*inputs, *module.parameters()) if x.requires_grad]
    return result, *torch.autograd.grad(result, wanted, cotangent)


@pytest.mark.parametrize(
    ("num_queries", "coordinates", "is_masked"),
    list(product((VERY_FEW, FEW, MANY), (2, 4), (True, False))),
)
def test_results_and_gradients_stay(num_queries, coordinates, is_masked):
    torch.manual_seed(0)
    plain, fast = (x.double() for x in random_pair())
    inputs = random_inputs(num_queries, coordinates, dtype=torch.float64)
    mask = torch.rand(2, NUM_CELLS) < 0.7 if is_masked else None
    expected = results_and_gradients(plain, inputs, mask)
    torch.testing.assert_close(results_and_gradients(fast, inputs, mask), expected)


def test_many_heads_of_many_images():
    torch.manual_seed(0)
    plain, fast = (x.double() for x in random_pair())
    inputs = random_inputs(300, batch=40, dtype=torch.float64)
    expected = results_and_gradients(plain, inputs)
    torch.testing.assert_close(results_and_gradients(fast, inputs), expected)


@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_gradients(num_queries):
    torch.manual_seed(0)
    _, fast = random_pair()
    inputs = random_inputs(num_queries, dtype=torch.float64)
    fast.double()
    assert torch.autograd.gradcheck(
        lambda *x: fast(*x, None, SHAPES), inputs, fast_mode=True, atol=1e-4
    )


def test_gradients_in_the_centres_of_cells():
    # Where interpolation has corners: so an encoder begins.
    shape = (4, 8)
    plain = DeformableAttention(16, 4, num_levels=1, num_points=2).double()
    y, x = torch.meshgrid(*((torch.arange(n) + 0.5) / n for n in shape), indexing="ij")
    reference = torch.stack((x, y), -1).view(1, -1, 1, 2).double().requires_grad_()
    torch.manual_seed(0)
    query, tokens = (torch.randn(1, 32, 16).double().requires_grad_() for _ in range(2))
    with torch.no_grad():
        plain.sampling_offsets.bias.round_()
    inputs = query, reference, tokens
    expected = results_and_gradients(plain, inputs, shapes=(shape,))
    torch.testing.assert_close(
        results_and_gradients(sped_up(plain), inputs, shapes=(shape,)), expected
    )


@pytest.mark.parametrize("num_queries", [FEW, MANY])
@pytest.mark.parametrize("place", [-1e30, -2.0, 3.0, 1e30, torch.inf])
def test_finds_nothing_far_outside(num_queries, place):
    torch.manual_seed(0)
    _, fast = random_pair()
    query, reference, tokens = random_inputs(num_queries)
    with torch.no_grad():
        reference.fill_(place)
    result, *gradients = results_and_gradients(fast, (query * 0.01, reference, tokens))
    torch.testing.assert_close(result, fast.output_proj.bias.expand_as(result))
    assert not gradients[1].any()


def test_what_is_not_a_number_stays_so():
    _, fast = random_pair()
    query, reference, tokens = random_inputs(MANY)
    with torch.no_grad():
        reference[0, 3] = torch.nan
    missing = fast(query, reference, tokens, None, SHAPES).isnan()
    assert missing[0, 3].all()
    assert missing.sum() == 16


@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_hooks_of_the_projection_are_called(num_queries):
    torch.manual_seed(0)
    plain, fast = random_pair()
    inputs = random_inputs(num_queries)
    for module in (plain, fast):
        module.value_proj.register_forward_hook(lambda module, args, result: 2 * result)
    torch.testing.assert_close(fast(*inputs, None, SHAPES), plain(*inputs, None, SHAPES))


def test_levels_of_one_row_are_left_to_torch():
    torch.manual_seed(0)
    plain, fast = random_pair()
    shapes = ((6, 7), (1, 12), (4, 1))
    inputs = random_inputs(FEW)
    expected = results_and_gradients(plain, inputs, shapes=shapes)
    torch.testing.assert_close(results_and_gradients(fast, inputs, shapes=shapes), expected)


@pytest.mark.parametrize("num_queries", [FEW, MANY])
def test_what_is_found_at_places_is_not_kept(num_queries):
    def kept(module):
        sizes = {}

        def note(x):
            sizes[x.data_ptr()] = x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            module(*inputs, None, SHAPES)
        return sum(sizes.values())

    plain, fast = random_pair()
    inputs = random_inputs(num_queries)
    num_found = 2 * num_queries * 16 * len(SHAPES) * 2
    assert kept(fast) < kept(plain) - 0.8 * num_found


@pytest.mark.parametrize("num_queries", [FEW, MANY])
@pytest.mark.parametrize("coordinates", [2, 4])
def test_lower_precision_is_close(num_queries, coordinates):
    torch.manual_seed(0)
    plain, fast = random_pair()
    inputs = random_inputs(num_queries, coordinates)
    expected = plain(*inputs, None, SHAPES)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = fast(*inputs, None, SHAPES)
    low = fast.bfloat16()(*(x.bfloat16() for x in inputs), None, SHAPES)
    for result, tolerance in ((mixed, 0.03), (low, 0.06)):
        assert result.dtype == torch.bfloat16
        assert (result - expected).norm() < tolerance * expected.norm()


def test_is_captured_as_plain_operators():
    torch.manual_seed(0)
    plain, fast = random_pair()
    inputs = random_inputs(MANY)
    expected = plain(*inputs, None, SHAPES)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs, None, SHAPES), expected)
    program = torch.export.export(fast, (*inputs, None, SHAPES))
    assert "grid_sampler" in str(program.graph)
