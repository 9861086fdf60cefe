import torch

from d2detr.modeling import Queries, Targets
from d2detr.modeling.denoising import Denoising

QUERIES, GROUPS = 4, 3


def make(**options):
    torch.manual_seed(0)
    return Denoising(num_classes=9, embed_dim=8, reference_eps=1e-3, groups=GROUPS, **options)


def make_targets(*counts):
    return Targets.create(
        [torch.arange(n) for n in counts], [torch.rand(n, 4) * 0.4 + 0.3 for n in counts]
    )


def make_queries(batch):
    return Queries(torch.zeros(batch, QUERIES, 8), reference=torch.full((batch, QUERIES, 4), 0.5))


def test_groups_see_themselves_and_the_decoders_queries_which_do_not_see_them():
    queries, noised = make()(make_queries(2), make_targets(2, 1))
    assert noised.start == QUERIES
    group = torch.tensor([0] * QUERIES + [1, 1, 2, 2, 3, 3])
    for i, own in enumerate(group):
        for j, other in enumerate(group):
            assert queries.mask[i, j] == (own == other or other == 0)


def test_every_object_is_in_every_group_and_the_rest_is_padding():
    queries, noised = make(label_noise=0.0, box_noise=0.0)(make_queries(2), make_targets(2, 1))
    targets = make_targets(2, 1)
    assert noised.target.tolist() == [0, 1, 2] * GROUPS
    assert noised.image.tolist() == [0, 0, 1] * GROUPS
    assert noised.query.tolist() == [4, 5, 4, 6, 7, 6, 8, 9, 8]
    padding = queries.content[1, 5::2]
    assert not padding.any()
    assert (queries.reference[1, 5::2] == 0.5).all()
    assert (queries.content[noised.image, noised.query, -1] == 1).all()
    assert targets.counts == [2, 1]


def test_noise_is_bounded():
    denoising = make(label_noise=0.5, box_noise=0.4)
    labels, boxes = torch.full((4000,), 3), torch.tensor([0.5, 0.5, 0.2, 0.4]).repeat(4000, 1)
    noised_labels, noised_boxes = denoising.draw(labels, boxes, torch.zeros(4000, dtype=torch.bool))
    changed = (noised_labels != 3).float().mean().item()
    assert 0.4 < changed < 0.49  # one random label in nine is the same
    difference = (noised_boxes - boxes).abs().amax(0)
    reach = torch.tensor([0.04, 0.08, 0.08, 0.16])
    assert (difference <= reach).all()
    assert (difference > 0.98 * reach).all()


def test_inference_adds_nothing_but_the_embedding_of_no_label():
    denoising = make()
    queries, noised = denoising(make_queries(1))
    assert noised is None
    assert queries.mask is None
    assert torch.equal(queries.content[0, 0, :-1], denoising.label_embed.weight[-1])
    assert not queries.content[..., -1].any()
