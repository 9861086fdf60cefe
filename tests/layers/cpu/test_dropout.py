import pytest
import torch
import torch.nn.functional as F

from d2detr.layers.cpu.dropout import dropout, relu_dropout


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_drops_a_share_and_scales_the_rest(p):
    torch.manual_seed(0)
    x = torch.rand(301, 997) + 1
    result = dropout(x, p)
    kept = result != 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=3e-3)
    torch.testing.assert_close(result[kept], x[kept] / (1 - p))
    # Neither neighbours in a row nor those in a column are dropped together.
    for left, right in ((kept[:, :-1], kept[:, 1:]), (kept[:-1], kept[1:])):
        assert (left & right).float().mean().item() == pytest.approx((1 - p) ** 2, abs=5e-3)


def test_is_repeatable():
    x = torch.ones(33)
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(dropout(x, 0.3))
    torch.testing.assert_close(*results)
    assert not torch.equal(results[0], dropout(x, 0.3))


@pytest.mark.parametrize("function", [dropout, relu_dropout])
@pytest.mark.parametrize("p, training", [(0.0, True), (0.5, False)])
def test_drops_nothing(function, p, training):
    x = torch.randn(50)
    expected = x if function is dropout else x.relu()
    assert torch.equal(function(x, p, training), expected)


@pytest.mark.parametrize("function", [dropout, relu_dropout])
def test_gradient_passes_where_the_value_did(function):
    torch.manual_seed(0)
    x = torch.randn(1000, requires_grad=True)
    result = function(x, 0.25)
    grad = torch.randn(1000)
    result.backward(grad)
    torch.testing.assert_close(x.grad, torch.where(result != 0, grad / 0.75, 0.0))


def test_after_relu_only_the_result_is_kept():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x) or x, lambda x: x):
        result = relu_dropout(torch.randn(8, requires_grad=True), 0.5)
    assert [x.data_ptr() for x in kept] == [result.data_ptr()]
    assert torch.equal(F.relu(result), result)
