import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from d2detr.visualization import draw_instances, draw_segments

CORNERS = ((20, 20), (180, 20), (20, 180), (180, 180))


def hues(classes, metadata=None):
    """Draws a box of each class on black, and returns the colours (4, 3) of their left edges."""
    boxes = Boxes(torch.tensor([(x, y, x + 80, y + 80) for x, y in CORNERS]).float())
    found = Instances((300, 300), pred_boxes=boxes, pred_classes=torch.tensor(classes))
    found.scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    picture = draw_instances(np.zeros((300, 300, 3), dtype=np.uint8), found, metadata)
    edges = np.array([picture[y + 60, x - 2 : x + 3].max(axis=0) for x, y in CORNERS], dtype=float)
    return edges / edges.max(axis=1, keepdims=True)


@pytest.mark.parametrize("metadata", [None, Metadata(thing_classes=["a", "b", "c"])])
def test_a_class_has_one_colour_in_every_picture(metadata):
    first, second, again, third = hues([0, 1, 1, 2], metadata)
    np.testing.assert_allclose(second, again, atol=0.02)
    assert np.abs(first - second).max() > 0.2 and np.abs(second - third).max() > 0.2
    np.testing.assert_allclose(hues([2, 0, 1, 0], metadata)[[1, 2, 0]], [first, second, third])


def test_colours_of_the_dataset_are_used():
    metadata = Metadata(thing_colors=[[250, 0, 0], [0, 0, 250]])
    red, blue = [1, 0, 0], [0, 0, 1]
    np.testing.assert_allclose(hues([1, 0, 0, 1], metadata), [blue, red, red, blue], atol=0.02)


def test_a_class_has_one_colour_in_panoptic_pictures():
    ids = torch.zeros(300, 300, dtype=torch.int32)
    ids[:100], ids[100:200], ids[200:] = 1, 2, 3
    segments = [
        {"id": i, "category_id": label, "isthing": label == 0}
        for i, label in ((1, 0), (2, 1), (3, 0))
    ]
    metadata = Metadata(thing_classes=["a", "b"], stuff_classes=["a", "b"])
    picture = draw_segments(np.zeros((300, 300, 3), dtype=np.uint8), (ids, segments), metadata)
    first, second, third = picture[[50, 150, 250], 20].astype(int)
    assert np.abs(first - third).max() <= 2 and np.abs(first - second).max() > 20
