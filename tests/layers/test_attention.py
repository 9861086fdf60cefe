import pytest
import torch
from torch import nn

from d2detr.layers import MultiheadAttention


@pytest.mark.parametrize("self_attention", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_equals_torch_with_the_same_weights(self_attention, masked):
    torch.manual_seed(0)
    own, peer = MultiheadAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    nn.init.normal_(peer.in_proj_bias)
    own.load_state_dict(peer.state_dict())
    query = torch.randn(2, 5, 16)
    key = query if self_attention else torch.randn(2, 5, 16)
    value = torch.randn(2, 5, 16)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False

    expected, _ = peer(query, key, value, key_padding_mask=~mask if masked else None)
    torch.testing.assert_close(own(query, key, value, mask if masked else None), expected)


def test_dropout_drops_in_training_alone():
    torch.manual_seed(0)
    attention, x = MultiheadAttention(16, 4, dropout=0.5), torch.randn(1, 8, 16)
    assert not torch.equal(attention(x, x, x, None), attention(x, x, x, None))
    attention.eval()
    assert torch.equal(attention(x, x, x, None), attention(x, x, x, None))


@pytest.mark.parametrize("masked", [True, False])
def test_groups_of_queries_do_not_see_each_other(masked):
    torch.manual_seed(0)
    own, peer = MultiheadAttention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    own.load_state_dict(peer.state_dict())
    x = torch.randn(2, 6, 16)
    sees = torch.ones(6, 6, dtype=torch.bool)
    sees[:2, 2:] = sees[2:4, :2] = False
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[1, 5:] = False
    expected, _ = peer(x, x, x, attn_mask=~sees, key_padding_mask=~mask if masked else None)
    torch.testing.assert_close(own(x, x, x, mask if masked else None, sees), expected)
