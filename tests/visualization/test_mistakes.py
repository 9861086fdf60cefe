import pytest
import torch
from detectron2.structures import Boxes, Instances

from d2detr.visualization.mistakes import KINDS, count_mistakes

OBJECTS = [(0, (10, 10, 30, 30)), (1, (50, 50, 90, 90))]


def make(rows, scores=None):
    instances = Instances((100, 100))
    boxes = Boxes(torch.tensor([box for _, box in rows], dtype=torch.float32).reshape(-1, 4))
    classes = torch.tensor([label for label, _ in rows], dtype=torch.int64)
    if scores is None:
        instances.gt_boxes, instances.gt_classes = boxes, classes
    else:
        instances.pred_boxes, instances.pred_classes = boxes, classes
        instances.scores = torch.tensor(scores)
    return instances


@pytest.mark.parametrize(
    ("detections", "expected"),
    [
        (OBJECTS, {}),
        ([], {"missed": 2}),
        ([OBJECTS[0]], {"missed": 1}),
        ([*OBJECTS, OBJECTS[1]], {"duplicate": 1}),
        ([*OBJECTS, (0, (1, 80, 9, 99))], {"background": 1}),
        ([OBJECTS[0], (0, OBJECTS[1][1])], {"wrong_class": 1}),
        ([OBJECTS[0], (1, (70, 50, 110, 90))], {"misplaced": 1}),
        ([OBJECTS[0], (0, (70, 50, 110, 90))], {"background": 1, "missed": 1}),
    ],
)
def test_kinds(detections, expected):
    scores = [0.9 - 0.1 * index for index in range(len(detections))]
    counts = count_mistakes(make(OBJECTS), make(detections, scores))
    assert counts == {**dict.fromkeys(KINDS, 0), **expected}


def test_better_scored_detection_takes_the_object():
    shifted = (0, (12, 10, 32, 30))
    counts = count_mistakes(make(OBJECTS[:1]), make([shifted, OBJECTS[0]], [0.5, 0.9]))
    assert counts["duplicate"] == 1 and counts["missed"] == 0


def test_image_without_objects():
    counts = count_mistakes(make([]), make(OBJECTS, [0.9, 0.8]))
    assert counts["background"] == 2 and sum(counts.values()) == 2
