from pathlib import Path

import torch

from d2detr.layers import box_cxcywh_to_xyxy, box_xyxy_to_cxcywh, generalized_box_iou

REFERENCE = torch.load(
    Path(__file__).parents[1] / "reference" / "criterion_cases.pt", weights_only=True
)["box_ops"]


def test_conversions_of_the_original():
    xyxy = box_cxcywh_to_xyxy(REFERENCE["a"])
    torch.testing.assert_close(xyxy, REFERENCE["xyxy_a"])
    torch.testing.assert_close(box_xyxy_to_cxcywh(xyxy), REFERENCE["cxcywh_back"])


def test_generalized_iou_of_the_original():
    a, b = box_cxcywh_to_xyxy(REFERENCE["a"]), box_cxcywh_to_xyxy(REFERENCE["b"])
    torch.testing.assert_close(generalized_box_iou(a[:, None], b[None]), REFERENCE["giou"])


def test_generalized_iou_by_hand():
    square = torch.tensor([0.0, 0.0, 2.0, 2.0])
    others = torch.tensor(
        [
            [0.0, 0.0, 2.0, 2.0],  # the same
            [1.0, 0.0, 3.0, 2.0],  # half of it: 2 / 6
            [3.0, 0.0, 5.0, 2.0],  # a gap of 2 in a hull of 10
            [1.0, 1.0, 1.0, 1.0],  # a point inside
        ]
    )
    expected = torch.tensor([1.0, 1 / 3, -0.2, 0.0])
    torch.testing.assert_close(generalized_box_iou(square, others), expected)


def test_generalized_iou_of_a_point_with_itself_is_zero():
    point = torch.full((1, 4), 0.5, requires_grad=True)
    giou = generalized_box_iou(point, point)
    giou.sum().backward()
    assert giou.item() == 0
    assert torch.isfinite(point.grad).all()
