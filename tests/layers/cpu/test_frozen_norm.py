import copy

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn

from d2detr.layers.cpu.frozen_norm import fold_frozen_norms


def make_pair(bias=False):
    """A convolution with a frozen normalisation, and the same folded."""
    torch.manual_seed(0)
    norm = FrozenBatchNorm2d(6)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    plain = nn.Sequential(
        Conv2d(4, 6, 3, stride=2, padding=1, bias=bias, norm=norm, activation=torch.relu)
    )
    folded = copy.deepcopy(plain)
    fold_frozen_norms(folded)
    return plain, folded


@pytest.mark.parametrize("bias", [False, True])
def test_same_outputs_and_gradients(bias):
    plain, folded = make_pair(bias)
    gradients = []
    for module in (plain, folded):
        x = torch.ones(2, 4, 9, 7).cumsum(2).requires_grad_()
        y = module(x)
        (y * y).sum().backward()
        gradients.append([y.detach(), x.grad, *(p.grad for p in module.parameters())])
    for expected, actual in zip(*gradients, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_scaled_weights_are_not_kept_for_the_backward_pass():
    _, folded = make_pair()
    kept = []
    x = torch.randn(1, 4, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda y: kept.append(y) or y, lambda y: y):
        folded(x)
    weights = [y.data_ptr() for y in kept if y.shape == folded[0].weight.shape]
    assert weights == [folded[0].weight.data_ptr()]


@pytest.mark.parametrize("frozen", [False, True])
def test_autocast_trains_in_its_precision(frozen):
    plain, folded = make_pair()
    results = []
    for module in (plain, folded):
        module[0].weight.requires_grad_(not frozen)
        x = torch.ones(1, 4, 9, 7).cumsum(2).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = module(x)
        y.float().sum().backward()
        assert y.dtype == torch.bfloat16
        results.append([y.float(), x.grad, module[0].weight.grad])
    torch.testing.assert_close(*results, rtol=0.05, atol=0.1)


def test_state_dict_stays():
    plain, folded = make_pair()
    assert plain.state_dict().keys() == folded.state_dict().keys()
    assert copy.deepcopy(folded).load_state_dict(plain.state_dict())


@torch.no_grad()
def test_inference_folds_once_until_something_changes(monkeypatch):
    plain, folded = make_pair()
    calls = []
    fold = type(folded[0])._fold
    monkeypatch.setattr(
        type(folded[0]), "_fold", lambda self: calls.append(1) or fold(self), raising=True
    )
    x = torch.randn(1, 4, 8, 8)
    folded.eval()
    folded(x)
    folded(x)
    assert len(calls) == 1

    def check():
        torch.testing.assert_close(folded(x), plain(x), rtol=1e-4, atol=1e-4)

    for change in (
        lambda module: module[0].weight.mul_(2),
        lambda module: module[0].norm.running_var.add_(1),
        lambda module: module.load_state_dict(
            {key: value + 0.5 for key, value in module.state_dict().items()}
        ),
        lambda module: module.double().float().load_state_dict(plain.state_dict()),
    ):
        change(plain)
        change(folded)
        check()


def test_changes_behind_autograd_are_seen_after_a_change_of_mode():
    plain, folded = make_pair()
    x = torch.randn(1, 4, 8, 8)
    with torch.no_grad():
        folded.eval()(x)
        for module in (plain, folded.train()):
            module[0].weight.data.mul_(3)
        torch.testing.assert_close(folded.eval()(x), plain(x), rtol=1e-4, atol=1e-4)


def test_other_normalisations_are_left_alone():
    conv = nn.Sequential(Conv2d(4, 6, 3, norm=nn.BatchNorm2d(6)))
    fold_frozen_norms(conv)
    assert type(conv[0]) is Conv2d
