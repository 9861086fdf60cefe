import torch
from torch import nn

from d2detr.measure import bytes_kept_for_backward, inference_peak_bytes

KIBIBYTE = torch.zeros(256)


class Steps(nn.Module):
    def forward(self, x):
        first = x + 1
        second = first + 1
        del first
        view = second.view(2, 128).relu_()
        return view + 1


def test_peak_forgets_what_is_freed_and_counts_no_memory_twice():
    assert inference_peak_bytes(Steps(), KIBIBYTE) == 2 * 1024


class Squares(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(256))
        self.inner = Square()

    def forward(self, x):
        scaled = x * self.scale  # keeps x
        return {"loss": (scaled.square() + self.inner(scaled)).sum()}


class Square(nn.Module):
    def forward(self, x):
        return x.exp().square()  # keeps the result of exp, for both


def test_kept_tensors_count_once_in_the_module_that_first_keeps_them():
    kept = bytes_kept_for_backward(Squares(), KIBIBYTE)
    assert kept == {"": 3 * 1024, "inner": 1024}


def test_mixed_precision_keeps_less():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
    x = torch.zeros(4096, 64)
    full, mixed = (bytes_kept_for_backward(model, x, amp=amp)[""] for amp in (False, True))
    assert mixed < full
