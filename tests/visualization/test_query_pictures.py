import numpy as np
import pytest
from PIL import Image

from d2detr.visualization import Predictions, draw_queries, tally_queries


def predictions(scores, classes, num_classes=3):
    boxes = np.tile(np.float32([10, 20, 30, 60]), (2, len(scores), 1))
    boxes[0] = 0  # of the layer before the last
    return Predictions(
        size=(80, 40),
        num_classes=num_classes,
        boxes=boxes,
        scores=np.stack([np.ones(len(scores)), scores]),
        classes=np.stack([np.zeros(len(scores), int), classes]),
        references=None,
    )


def test_queries_are_counted_by_class():
    tally = tally_queries(
        [
            predictions([0.9, 0.6, 0.4, 0.9], [2, 0, 1, 3]),  # 3 is no object
            predictions([0.5, 0.2, 0.4, 0.9], [2, 0, 1, 3]),
        ]
    )
    assert tally.wins.tolist() == [[0, 0, 2], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert tally.never == [2, 3]
    np.testing.assert_allclose(tally.boxes[1, 3], [0.5, 0.5, 0.5, 0.5])


@pytest.mark.parametrize("score", [0.1, 0.9])
def test_picture_of_one_image_and_many_classes(tmp_path, score):
    """Also of queries that detect nothing at all."""
    tally = tally_queries([predictions(np.full(50, score), np.arange(50), 1200)])
    draw_queries(tally, ["<b> $^$"] * 1200, tmp_path / "new" / "queries.png")
    assert Image.open(tmp_path / "new" / "queries.png").size[0] == 1500
