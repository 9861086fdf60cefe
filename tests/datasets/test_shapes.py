import numpy as np
import pytest

from d2detr.datasets.shapes import (
    EASY,
    HARD,
    STUFF_CLASSES,
    THING_CLASSES,
    draw_shapes_image,
)


@pytest.fixture(scope="module")
def drawn():
    return [draw_shapes_image([0, index], 128) for index in range(60)]


def test_image_depends_on_its_seed_alone(drawn):
    again = draw_shapes_image([0, 20], 128)
    assert np.array_equal(again.image, drawn[20].image)
    assert np.array_equal(again.masks, drawn[20].masks)
    assert again.classes == drawn[20].classes
    other_seed = draw_shapes_image([1, 20], 128)
    assert not np.array_equal(other_seed.image, drawn[20].image)


def test_truth_describes_the_image(drawn):
    for shapes in drawn:
        assert shapes.image.shape == (128, 128, 3)
        assert 1 <= len(shapes.classes) == len(shapes.masks) <= EASY.max_shapes
        assert shapes.masks.sum(axis=0).max() == 1
        assert set(np.unique(shapes.stuff)) == {0, 1}


def test_shapes_stand_out_from_what_is_next_to_them(drawn):
    for shapes in drawn:
        seen = ~shapes.masks.any(axis=0)
        regions = [*shapes.masks, *(seen & (shapes.stuff == k) for k in (0, 1))]
        colors = [shapes.image[region].mean(axis=0) for region in regions]
        for i, color in enumerate(colors[:-2]):
            others = colors[:i] + colors[i + 1 :]
            assert min(np.linalg.norm(color - other) for other in others) > 50


def test_hidden_shapes_stay_mostly_visible(drawn):
    # The smallest shape, a triangle within a circle of 0.3 times the side, has 478 pixels.
    more = [draw_shapes_image([1, index], 128) for index in range(200)]
    areas = [mask.sum() for shapes in drawn + more for mask in shapes.masks]
    assert min(areas) >= 270


def test_stuff_labels_follow_the_colors(drawn):
    for shapes in drawn:
        seen = ~shapes.masks.any(axis=0)
        sky, meadow = (shapes.image[seen & (shapes.stuff == k)].mean(axis=0) for k in (0, 1))
        assert sky.argmax() != 0
        assert sky[2] > meadow[2] + 30
    assert STUFF_CLASSES == ("sky", "meadow")


def test_every_class_and_count_occurs(drawn):
    labels = [label for shapes in drawn for label in shapes.classes]
    assert set(labels) == set(range(len(THING_CLASSES)))
    assert {len(shapes.classes) for shapes in drawn} == set(range(1, EASY.max_shapes + 1))


@pytest.mark.parametrize(
    ("name", "low", "high"),
    # Area relative to that of the circle around the shape.
    [("circle", 0.97, 1.03), ("square", 0.6, 0.67), ("triangle", 0.39, 0.44)]
    + [("star", 0.4, 0.5), ("cross", 0.53, 0.59)],
)
def test_classes_look_like_their_names(drawn, name, low, high):
    whole = []
    for shapes in drawn:
        if len(shapes.classes) == 1 and shapes.classes[0] == THING_CLASSES.index(name):
            rows, columns = np.nonzero(shapes.masks[0])
            points = np.stack((rows, columns), axis=1) + 0.5
            center = points.mean(axis=0)
            radius = np.linalg.norm(points - center, axis=1).max()
            whole.append(len(points) / (np.pi * radius**2))
    assert whole
    assert low <= np.median(whole) <= high


def test_size_can_be_chosen():
    shapes = draw_shapes_image([3], 96)
    assert shapes.image.shape == (96, 96, 3)
    assert shapes.masks.shape[1:] == shapes.stuff.shape == (96, 96)


def test_easy_shapes_stay_what_they_are():
    # Of the first training images, from before there were harder ones.
    expected = [
        ([4], [2183], 194.002),
        ([1, 3], [966, 1034], 187.482),
        ([3], [556], 203.364),
        ([4, 3], [1994, 720], 182.952),
    ]
    drawn = [draw_shapes_image([1, 0, index], 128) for index in range(len(expected))]
    found = [(shapes.classes, [int(mask.sum()) for mask in shapes.masks]) for shapes in drawn]
    assert found == [(classes, areas) for classes, areas, _ in expected]
    means = [shapes.image.mean() for shapes in drawn]
    assert means == pytest.approx([mean for _, _, mean in expected], abs=0.01)


@pytest.fixture(scope="module")
def hard():
    return [draw_shapes_image([0, index], 128, HARD) for index in range(60)]


def test_hard_images_have_more_and_smaller_shapes(hard):
    assert {len(shapes.classes) for shapes in hard} == set(range(1, 9))
    widths = [np.ptp(np.nonzero(mask)[1]) + 1 for shapes in hard for mask in shapes.masks]
    assert np.mean(np.array(widths) <= 8) > 0.05
    assert np.mean(np.array(widths) >= 32) > 0.1


def test_truth_describes_hard_images_too(hard):
    for shapes in hard:
        assert len(shapes.classes) == len(shapes.masks)
        assert shapes.masks.sum(axis=0).max() == 1
        assert shapes.masks.any(axis=(1, 2)).all()
