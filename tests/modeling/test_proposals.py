import pytest
import torch
from detectron2.modeling import build_model

from d2detr.errors import UserError
from d2detr.modeling import SigmoidFocal, SoftmaxWithNoObject, Targets
from d2detr.modeling.criterion import Divisor
from d2detr.modeling.proposals import PROPOSALS, Proposals
from d2detr.modeling.queries import Memory
from tests.modeling.inputs import make_input

QUERIES, WIDTH = 2, 8


@pytest.fixture
def proposals():
    torch.manual_seed(0)
    return Proposals(
        num_queries=QUERIES,
        embed_dim=WIDTH,
        classification=SoftmaxWithNoObject(3),
        reference_eps=1e-3,
        box_size=0.25,
    )


def make_memory(mask=None):
    tokens = torch.randn(1, 6, WIDTH, requires_grad=True)
    return Memory(tokens, torch.zeros_like(tokens), mask, shapes=((2, 3),))


def test_the_best_cells_are_chosen(proposals):
    boxes, proposed = proposals(make_memory())
    squares = [[x, y, 0.25, 0.25] for y in (0.25, 0.75) for x in (1 / 6, 0.5, 5 / 6)]
    torch.testing.assert_close(proposed.squares[0], torch.tensor(squares))
    best = proposed.logits.softmax(-1)[0, :, :-1].amax(-1).topk(QUERIES).indices
    torch.testing.assert_close(boxes[0], proposed.squares[0, best])  # heads move nothing at first
    assert not boxes.requires_grad
    assert proposed.logits.requires_grad and proposed.boxes.requires_grad


def test_padded_cells_are_not_chosen_and_do_not_move_the_others(proposals):
    mask = torch.tensor([[True, True, False, False, False, False]])
    boxes, proposed = proposals(make_memory(mask))
    assert sorted(boxes[0, :, 0].tolist()) == pytest.approx([0.25, 0.75])
    assert boxes[0, :, 1].tolist() == pytest.approx([0.5, 0.5])
    assert proposed.boxes.isfinite().all()


def test_coarser_levels_propose_larger_boxes_and_nothing_at_the_border():
    proposals = Proposals(
        num_queries=QUERIES,
        embed_dim=WIDTH,
        classification=SoftmaxWithNoObject(3),
        reference_eps=1e-3,
        box_size=0.25,
        num_levels=2,
    )
    tokens = torch.randn(1, 100 + 1, WIDTH)
    memory = Memory(tokens, tokens, None, shapes=((1, 100), (1, 1)))
    _, proposed = proposals(memory)
    assert proposed.squares[0, 0].tolist() == pytest.approx([0.005, 0.5, 0.25, 0.25])
    assert proposed.squares[0, -1].tolist() == [0.5] * 4
    assert proposed.valid[0].tolist() == [False, *[True] * 98, False, True]
    targets = Targets.create([torch.tensor([1])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    group = proposals.as_group(proposed, targets, Divisor(1, 1, 1))
    assert group.boxes[0, 0, 0].tolist() == [1.0] * 4  # the image: it proposes nothing


def test_what_cells_learn(proposals):
    targets = Targets.create([torch.tensor([2])], [torch.tensor([[0.5, 0.5, 0.2, 0.2]])])
    options = {
        "num_queries": QUERIES,
        "embed_dim": WIDTH,
        "classification": SigmoidFocal(3),
        "reference_eps": 1e-3,
    }
    for name, cells, label in (("classes", 6, 2), ("chosen", QUERIES, 2), ("objectness", 6, 0)):
        proposals = PROPOSALS[name](**options)
        torch.nn.init.normal_(proposals.heads.class_embed.weight)
        boxes, proposed = proposals(make_memory())
        group = proposals.as_group(proposed, targets, Divisor(1, 1, 1))
        assert group.logits.shape == (1, 1, cells, 3)
        assert group.targets.labels.tolist() == [label]
        score = proposed.logits[..., 0] if name == "objectness" else proposed.logits.amax(-1)
        assert proposed.index.tolist() == score.topk(QUERIES).indices.tolist()
        if name == "chosen":
            torch.testing.assert_close(group.boxes[0], boxes)


@pytest.mark.parametrize("classification", ["softmax", "focal"])
def test_everything_learns_from_the_losses(tiny_cfg, classification):
    detr = tiny_cfg.MODEL.DETR
    detr.DECODER, detr.TWO_STAGE, detr.CLASSIFICATION = "dab", True, classification
    model = build_model(tiny_cfg)
    losses = model([make_input(64, 96, 2), make_input(80, 64, 1)])
    assert {"loss_ce_enc", "loss_bbox_enc", "loss_giou_enc"} < losses.keys()
    sum(losses.values()).backward()
    assert [name for name, x in model.named_parameters() if x.grad is None] == []
    (result,) = model.eval()([make_input(64, 96)])
    assert len(result["instances"]) == detr.NUM_OBJECT_QUERIES


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DECODER": "detr"}, "TWO_STAGE needs queries that can be boxes"),
        ({"PROPOSAL_SIZE": 0.0}, "PROPOSAL_SIZE is 0.0"),
        ({"NUM_PATTERNS": 3}, "NUM_PATTERNS is 3, but proposals take no patterns"),
    ],
)
def test_unusable_settings(tiny_cfg, settings, message):
    detr = tiny_cfg.MODEL.DETR
    detr.DECODER, detr.TWO_STAGE = "dab", True
    for key, value in settings.items():
        detr[key] = value
    with pytest.raises(UserError, match=message):
        build_model(tiny_cfg)


def test_more_queries_than_cells(proposals):
    tokens = torch.zeros(1, 1, WIDTH)
    memory = Memory(tokens, tokens, None, shapes=((1, 1),))
    with pytest.raises(UserError, match="1 cells, of which .* cannot choose 2 queries"):
        proposals(memory)
