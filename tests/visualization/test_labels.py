import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from d2detr.visualization import draw_instances
from d2detr.visualization.labels import place_labels


def test_a_text_does_not_cover_the_object_below():
    boxes = Boxes(torch.tensor([[100.0, 100, 130, 120], [95, 121, 200, 200]]))
    found = Instances((300, 300), pred_boxes=boxes, pred_classes=torch.tensor([0, 1]))
    found.scores = torch.tensor([0.9, 0.8])
    picture = draw_instances(np.zeros((300, 300, 3), dtype=np.uint8), found)
    assert picture.any()
    assert not picture[126:195, 101:194].any()


def test_labels_cover_nothing_where_there_is_room():
    """A grid of objects with 24 pixels between them, and labels of 60 x 20."""
    starts = np.arange(0, 400, 100, dtype=float) + 24
    corners = np.stack(np.meshgrid(starts, starts), axis=-1).reshape(-1, 2)
    boxes = np.concatenate((corners, corners + 76), axis=1)
    sizes = np.full((len(boxes), 2), [60.0, 20.0])
    placed = place_labels(boxes, sizes, (424, 424))
    labels = np.concatenate((placed, placed + sizes), axis=1)
    assert (labels[:, :2] >= 0).all() and (labels[:, 2:] <= 424).all()
    everything = np.concatenate((boxes, labels))
    for index, label in enumerate(labels):
        others = np.delete(everything, [index, len(boxes) + index], axis=0)
        overlap = np.minimum(others[:, 2:], label[2:]) - np.maximum(others[:, :2], label[:2])
        assert not (overlap > 0).all(axis=1).any()


def test_labels_stay_in_the_picture():
    boxes = np.array([[0.0, 0, 200, 100], [150, 0, 200, 100]])
    sizes = np.array([[90.0, 15], [90, 15]])
    placed = place_labels(boxes, sizes, (200, 100))
    assert (placed >= 0).all() and (placed + sizes <= [200, 100]).all()


def test_a_picture_without_objects_has_no_labels():
    assert place_labels(np.zeros((0, 4)), np.zeros((0, 2)), (10, 10)).shape == (0, 2)
