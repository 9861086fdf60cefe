import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from d2detr.modeling import SigmoidFocal, SoftmaxWithNoObject

LAYERS, IMAGES, QUERIES, CLASSES = 2, 3, 6, 4


@pytest.fixture
def matched():
    """Logits, and pairs of every layer with their classes."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(LAYERS, IMAGES, QUERIES, CLASSES)
    layer = torch.arange(LAYERS)[:, None]
    image = torch.tensor([0, 0, 2])
    query = torch.tensor([[1, 4, 0], [5, 2, 3]])
    labels = torch.tensor([[3, 0, 3], [0, 3, 1]])
    return logits, (layer, image, query, labels)


def test_focal_loss_is_that_of_torchvision(matched):
    logits, pairs = matched
    layer, image, query, labels = pairs
    logits.requires_grad_()
    target = torch.zeros_like(logits)
    target[layer, image, query, labels] = 1
    classification = SigmoidFocal(CLASSES)
    actual = classification.loss(classification.normalise(logits), *pairs)
    expected = sigmoid_focal_loss(logits, target).sum((1, 2, 3))
    torch.testing.assert_close(actual, expected)
    weights = torch.tensor([1.0, 3.0])
    gradients = [torch.autograd.grad(loss, logits, weights)[0] for loss in (actual, expected)]
    torch.testing.assert_close(*gradients)


def test_focal_cost_of_the_original():
    logits = torch.linspace(-9, 9, 7)
    p = logits.sigmoid()
    expected = 0.25 * (1 - p) ** 2 * -(p + 1e-8).log() - 0.75 * p**2 * -(1 - p + 1e-8).log()
    torch.testing.assert_close(SigmoidFocal(CLASSES).cost(logits), expected)


def test_a_query_may_give_several_classes():
    logits = torch.full((1, QUERIES, CLASSES), -5.0)
    logits[0, 4, 1], logits[0, 2, 3], logits[0, 4, 0] = 3.0, 2.0, 1.0
    best = SigmoidFocal(CLASSES).choose(logits, 3)
    assert best.query.tolist() == [[4, 2, 4]]
    assert best.classes.tolist() == [[1, 3, 0]]
    torch.testing.assert_close(best.scores, torch.tensor([[3.0, 2.0, 1.0]]).sigmoid())
    assert SigmoidFocal(CLASSES).choose(logits, 0).scores.shape == (1, QUERIES)
    assert SigmoidFocal(CLASSES).choose(logits, 999).scores.shape == (1, QUERIES * CLASSES)


def test_softmax_never_gives_no_object():
    logits = torch.zeros(2, QUERIES, CLASSES + 1)
    logits[..., -1] = 9.0
    logits[0, 3, 2] = 5.0
    classification = SoftmaxWithNoObject(CLASSES)
    everything = classification.choose(logits, 0)
    assert everything.query is None
    assert everything.classes.max() < CLASSES
    best = classification.choose(logits, 2)
    assert best.query[0, 0] == 3
    assert best.classes[0, 0] == 2
    assert classification.score(logits)[1].unique().tolist() == [CLASSES]


def test_initial_probability_of_the_focal_head():
    bias = torch.nn.Parameter(torch.zeros(CLASSES))
    SigmoidFocal(CLASSES).init_bias(bias)
    assert bias.sigmoid().tolist() == pytest.approx([0.01] * CLASSES)
