"""Cases small enough to be worked out by hand, by the rules of the COCO panoptic API."""

import numpy as np
import pytest

from d2detr.errors import UserError
from d2detr.evaluation import PanopticQuality

CATEGORIES = [1, 2, 101]  # two things and stuff


def ids(*runs):
    """One row of pixels: (id, length) after (id, length)."""
    return np.concatenate([np.full(length, value) for value, length in runs])[None]


def true_segments(row, categories, crowd=()):
    return [
        {"id": i, "category_id": c, "area": int((row == i).sum()), "iscrowd": int(i in crowd)}
        for i, c in categories.items()
    ]


def compare(truth, categories, prediction, predicted_categories, crowd=()):
    quality = PanopticQuality(CATEGORIES)
    quality.add(
        truth,
        true_segments(truth, categories, crowd),
        prediction,
        [{"id": i, "category_id": c} for i, c in predicted_categories.items()],
    )
    return {c: row.tolist() for c, row in zip(CATEGORIES, quality.counts, strict=True)}


def test_matches_and_means():
    """Category 1: IoU 6/8 matched; 2: missed, and one false; 101: the rest, IoU 8/12."""
    truth = ids((5, 8), (6, 4), (7, 8))
    prediction = ids((1, 6), (3, 4), (2, 2), (3, 8))
    # Prediction 3 covers 2 pixels of segment 5, 2 of segment 6 and all 8 of segment 7.
    quality = PanopticQuality(CATEGORIES)
    quality.add(
        truth,
        true_segments(truth, {5: 1, 6: 2, 7: 101}),
        prediction,
        [{"id": 1, "category_id": 1}, {"id": 2, "category_id": 2}, {"id": 3, "category_id": 101}],
    )
    # Prediction 2 covers 2 of the 4 pixels of segment 6: an IoU of 0.5 is not above 0.5.
    expected = [[6 / 8, 1, 0, 0], [0, 0, 1, 1], [8 / 12, 1, 0, 0]]
    assert quality.counts.tolist() == expected
    assert quality.per_category()[2] == {"PQ": 0, "SQ": 0, "RQ": 0}
    mean = quality.mean()
    assert mean["PQ"] == pytest.approx((6 / 8 + 0 + 8 / 12) / 3, abs=1e-15)
    assert mean["RQ"] == pytest.approx(2 / 3, abs=1e-15)
    assert quality.mean([1, 2]) == {"PQ": 0.375, "SQ": 0.375, "RQ": 0.5, "n": 2}


def test_quality_of_one_category():
    """Two of three found with IoU 1 and 0.6, two false ones: PQ = 1.6 / (2 + 0.5 + 1)."""
    truth = ids((1, 10), (2, 10), (3, 10), (9, 20))
    prediction = ids((1, 10), (2, 6), (4, 4), (4, 10), (5, 5), (6, 15))
    categories = {1: 1, 2: 1, 4: 101, 5: 1, 6: 1}
    quality = PanopticQuality(CATEGORIES)
    quality.add(
        truth,
        true_segments(truth, {1: 1, 2: 1, 3: 1, 9: 2}),
        prediction,
        [{"id": i, "category_id": c} for i, c in categories.items()],
    )
    values = quality.per_category()[1]
    assert values["PQ"] == pytest.approx(1.6 / 3.5, abs=1e-15)
    assert values["SQ"] == pytest.approx(0.8, abs=1e-15)
    assert values["RQ"] == pytest.approx(2 / 3.5, abs=1e-15)


def test_void_is_left_out_of_the_union():
    """10 pixels predicted, 4 in void, 6 right: IoU 6 / 6 and not 6 / 10."""
    truth = ids((5, 6), (0, 4), (7, 4))
    counts = compare(truth, {5: 1, 7: 101}, ids((1, 10), (2, 4)), {1: 1, 2: 101})
    assert counts[1] == [1.0, 1, 0, 0]


@pytest.mark.parametrize(("in_void", "false"), [(5, 1), (6, 0)])
def test_predictions_mostly_in_void_are_ignored(in_void, false):
    """More than a half, and not just a half, has to be void."""
    truth = ids((0, in_void), (7, 10 - in_void))
    assert compare(truth, {7: 101}, ids((1, 10)), {1: 1})[1] == [0, 0, false, 0]


@pytest.mark.parametrize(("category", "false"), [(1, 0), (2, 1)])
def test_predictions_in_a_crowd_of_their_category_are_ignored(category, false):
    """The crowd itself is neither matched nor missed."""
    truth = ids((5, 6), (0, 1), (7, 3))
    counts = compare(truth, {5: 1, 7: 101}, ids((1, 10)), {1: category}, crowd=(5,))
    assert counts[category][2] == false
    assert counts[1][3] == 0
    assert counts[101] == [0, 0, 0, 1]


def test_crowd_is_never_matched():
    truth = ids((5, 10))
    assert compare(truth, {5: 1}, truth, {5: 1}, crowd=(5,))[1] == [0, 0, 0, 0]


def test_stuff_in_pieces_is_one_segment():
    truth = ids((7, 4), (5, 2), (7, 4))
    merged = compare(truth, {7: 101, 5: 1}, ids((1, 4), (2, 2), (1, 4)), {1: 101, 2: 1})
    assert merged[101] == [1.0, 1, 0, 0]
    pieces = compare(truth, {7: 101, 5: 1}, ids((1, 4), (2, 2), (3, 4)), {1: 101, 2: 1, 3: 101})
    assert pieces[101] == [0, 0, 2, 1]  # each half has an IoU of 0.5 only


def test_empty_prediction_and_empty_truth():
    truth = ids((5, 6), (7, 4))
    assert compare(truth, {5: 1, 7: 101}, ids((0, 10)), {}) == {
        1: [0, 0, 0, 1],
        2: [0, 0, 0, 0],
        101: [0, 0, 0, 1],
    }
    nothing = ids((0, 10))
    assert compare(nothing, {}, ids((1, 10)), {1: 1})[1] == [0, 0, 0, 0]  # all void


def test_annotated_area_counts_and_not_the_pixels():
    """As in the API: 10 pixels of an annotated area of 12, all found: IoU 10 / 12."""
    quality = PanopticQuality(CATEGORIES)
    truth = ids((5, 10))
    segments = [{"id": 5, "category_id": 1, "area": 12, "iscrowd": 0}]
    quality.add(truth, segments, truth, [{"id": 5, "category_id": 1}])
    assert quality.per_category()[1]["PQ"] == pytest.approx(10 / 12, abs=1e-15)


def test_categories_that_never_occur_do_not_count():
    quality = PanopticQuality(CATEGORIES)
    assert np.isnan(quality.mean()["PQ"])
    truth = ids((5, 10))
    quality.add(truth, true_segments(truth, {5: 1}), truth, [{"id": 5, "category_id": 1}])
    assert quality.mean() == {"PQ": 1.0, "SQ": 1.0, "RQ": 1.0, "n": 1}
    assert quality.per_category()[2] is None


def test_ids_of_three_bytes():
    truth = ids((256**3 - 1, 6), (256, 4))
    counts = compare(truth, {256**3 - 1: 1, 256: 2}, truth, {256**3 - 1: 1, 256: 2})
    assert counts[1] == counts[2] == [1.0, 1, 0, 0]


@pytest.mark.parametrize(
    ("prediction", "categories", "message"),
    [
        (ids((1, 5), (2, 5)), {1: 1}, "img has pixels of segment 2"),
        (ids((1, 10)), {1: 1, 3: 2}, "img describes segment 3, which has no pixel"),
        (ids((1, 10)), {1: 55}, "img has category 55"),
        (ids((1, 9)), {1: 1}, "img has .1, 9. rows and columns"),
    ],
)
def test_predictions_that_do_not_fit_together(prediction, categories, message):
    truth = ids((5, 10))
    segments = [{"id": i, "category_id": c} for i, c in categories.items()]
    with pytest.raises(UserError, match=message):
        PanopticQuality(CATEGORIES).add(
            truth, true_segments(truth, {5: 1}), prediction, segments, "img"
        )
