import pytest
import torch
from torch import nn

from d2detr.layers import MultiheadAttention
from d2detr.measure import count_multiply_adds, count_parameters

BATCH, QUERIES, KEYS, WIDTH = 2, 3, 5, 8


class CrossAttention(nn.Module):
    def __init__(self, masked=False):
        super().__init__()
        self.attention = MultiheadAttention(WIDTH, num_heads=4)
        self.masked = masked

    def forward(self, query, memory):
        mask = torch.ones(BATCH, KEYS, dtype=torch.bool) if self.masked else None
        return self.attention(query, memory, memory, mask)


@pytest.mark.parametrize("masked", [True, False])
def test_attention_is_two_products_beside_its_projections(masked):
    inputs = (torch.zeros(BATCH, QUERIES, WIDTH), torch.zeros(BATCH, KEYS, WIDTH))
    counted = count_multiply_adds(CrossAttention(masked), inputs)
    per_head = 2 * QUERIES * KEYS * (WIDTH // 4)  # query x key, and weight x value
    queries_and_outputs, keys_and_values = 2 * QUERIES * WIDTH**2, 2 * KEYS * WIDTH**2
    assert counted.by_operator() == {
        "attention": BATCH * 4 * per_head,
        "linear": BATCH * (queries_and_outputs + keys_and_values),
    }
    assert counted.total("model.attention") == counted.total()


def test_norms_are_no_products_and_the_mode_is_kept():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.BatchNorm2d(4)).train()
    counted = count_multiply_adds(model, torch.zeros(1, 3, 6, 5))
    assert counted.by_operator() == {"conv": (4 * 3) * (4 * 3 * 3 * 3)}
    assert model.training


def test_parameters_of_submodules_count_for_their_parents():
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 4)))
    model[0].requires_grad_(False)
    assert count_parameters(model) == {"": 25, "0": 9, "1": 16, "1.0": 16}
    assert count_parameters(model, trained_only=True) == {"": 16, "1": 16, "1.0": 16}
