from pathlib import Path

import pytest
import torch

from d2detr.errors import UserError
from d2detr.layers import LearnedPositionEncoding, SinePositionEncoding, build_position_encoding

REFERENCE = torch.load(Path(__file__).parents[1] / "reference" / "detr_r50.pt", weights_only=True)


def test_sine_encoding_of_the_original():
    encoding = SinePositionEncoding(256)(REFERENCE["feature_mask"])
    torch.testing.assert_close(
        encoding.permute(0, 3, 1, 2)[:, ::16], REFERENCE["pos"], atol=1e-5, rtol=0
    )


def test_sine_encoding_ignores_padding_after_the_image():
    encode = SinePositionEncoding(32)
    alone = encode(torch.zeros(1, 3, 4, dtype=torch.bool))
    padding_mask = torch.ones(1, 5, 7, dtype=torch.bool)
    padding_mask[:, :3, :4] = False
    assert torch.equal(encode(padding_mask)[:, :3, :4], alone)


def test_learned_encoding_is_x_before_y():
    encoding = LearnedPositionEncoding(8)
    pos = encoding(torch.zeros(2, 3, 5, dtype=torch.bool))
    assert pos.shape == (2, 3, 5, 8)
    assert torch.equal(pos[1, 2, 4, :4], encoding.col_embed.weight[4])
    assert torch.equal(pos[1, 2, 4, 4:], encoding.row_embed.weight[2])


def test_learned_encoding_too_small_for_the_image():
    with pytest.raises(UserError, match="3 x 51 cells .* 50 x 50"):
        LearnedPositionEncoding(8)(torch.zeros(1, 3, 51, dtype=torch.bool))


def test_impossible_settings():
    with pytest.raises(UserError, match="position_embedding is 'cosine'"):
        build_position_encoding("cosine", 32)
    with pytest.raises(UserError, match="embed_dim is 34"):
        build_position_encoding("sine", 34)
