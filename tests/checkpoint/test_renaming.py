import torch

from d2detr.checkpoint.renaming import Renaming

NAMES = Renaming(
    [("layer1.*.bn*", "res2.*.conv*.norm"), ("layer1.*.conv*", "res2.*.conv*"), ("out", "head")]
)


def test_longest_row_wins_in_both_directions():
    theirs = ["layer1.0.conv2.weight", "layer1.10.bn2.bias", "out.weight", "outer.weight"]
    ours = ["res2.0.conv2.weight", "res2.10.conv2.norm.bias", "head.weight", "outer.weight"]
    state_dict = {key: torch.zeros(1) for key in theirs}
    assert list(NAMES.to_ours(state_dict)) == ours
    assert list(NAMES.to_theirs(NAMES.to_ours(state_dict))) == theirs
