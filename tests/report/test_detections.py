import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from d2detr.report.confusion import confusion_matrix
from d2detr.report.detections import calibrate, compare, image_ap
from d2detr.report.gallery import build_gallery

OBJECTS = [(0, [10, 10, 20, 20]), (1, [50, 50, 40, 40])]


def truth(objects):
    instances = Instances((100, 100))
    corners = [[x, y, x + w, y + h] for _, (x, y, w, h) in objects]
    instances.gt_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.tensor([label for label, _ in objects], dtype=torch.int64)
    return instances


def image(objects, detections, image_id=1, file_name="none.jpg"):
    record = {
        "image_id": image_id,
        "file_name": file_name,
        "height": 100,
        "width": 100,
        "annotations": [
            {"bbox": box, "bbox_mode": 1, "category_id": label} for label, box in objects
        ],
    }
    found = [
        {"bbox": box, "category_id": label, "score": score} for label, box, score in detections
    ]
    (result,) = compare([record], {image_id: found}, Metadata())
    return result


@pytest.mark.parametrize(
    ("objects", "detections", "expected"),
    [
        (OBJECTS, [(0, OBJECTS[0][1], 0.9), (1, OBJECTS[1][1], 0.2)], 1),
        (OBJECTS, [(0, OBJECTS[0][1], 0.9)], 0.5),
        (OBJECTS, [(1, OBJECTS[0][1], 0.9)], 0),
        (OBJECTS[:1], [(1, OBJECTS[0][1], 0.9), (0, OBJECTS[0][1], 0.8)], 0.5),
        (OBJECTS[:1], [(0, [10, 10, 20, 15.5], 0.9)], 0.6),  # IoU 0.775: at 0.5 to 0.75
        ([], [(0, [1, 1, 9, 9], 0.4)], 1),
        ([], [(0, [1, 1, 9, 9], 0.6)], 0),
    ],
)
def test_ap_of_an_image(objects, detections, expected):
    result = image(objects, detections)
    assert result.ap == pytest.approx(expected)
    assert image_ap(truth(objects), result.predictions) == result.ap


def test_confusion_matrix():
    taken_for_another = image(OBJECTS, [(1, OBJECTS[0][1], 0.9), (0, [0, 80, 9, 9], 0.7)])
    unsure = image(OBJECTS[:1], [(0, OBJECTS[0][1], 0.3)])
    matrix = confusion_matrix([taken_for_another, unsure], 2)
    np.testing.assert_array_equal(matrix, [[0, 1, 1], [0, 0, 1], [1, 0, 0]])


def test_calibration():
    found = calibrate([image(OBJECTS[:1], [(0, OBJECTS[0][1], 0.95), (0, [0, 80, 9, 9], 0.93)])])
    assert found.counts.tolist() == [0] * 9 + [2]
    assert found.precision[-1] == 0.5 and found.scores[-1] == pytest.approx(0.94)
    assert found.error == pytest.approx(0.44)


def test_pictures_are_chosen_within_their_bytes(tiny_coco):
    files = [str(tiny_coco() / "a.jpg"), "missing.jpg"]
    images = [
        image(OBJECTS, [(0, OBJECTS[0][1], 0.9)][: number % 2], number, files[number == 7])
        for number in range(500)
    ]
    size = len(build_gallery(images[:1], 10**6).pictures[0]["source"])
    assert len(build_gallery(images, 10**7).pictures) == 60
    few = build_gallery(images, 10 * size)
    assert len(few.pictures) == 10
    aps = [picture["ap"] for picture in few.pictures]
    assert aps == sorted(aps) and {0, 50} <= set(aps)
    assert build_gallery(images[7:8], 10**7).unreadable == ["missing.jpg"]
