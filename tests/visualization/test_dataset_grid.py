import numpy as np
import pytest
from PIL import Image

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError
from d2detr.visualization import draw_data


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets") / "data"
    register_shapes_split("visualized_shapes", directory, ShapesSplit(num_images=4, size=64))
    return "visualized_shapes"


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def test_objects_are_painted_where_they_are(shapes, tmp_path):
    draw_data(shapes, tmp_path / "new" / "grid.png", num_images=4, columns=2)
    picture = read(tmp_path / "new" / "grid.png")
    assert picture.shape == (2 * (256 + 16) + 16, 2 * (256 + 16) + 16, 3)
    record = load_dataset(shapes)[0]
    plain = np.asarray(Image.open(record["file_name"]).resize((256, 256), Image.BILINEAR))
    change = np.abs(picture[16:272, 16:272] - plain).sum(-1)
    x, y, w, h = (int(4 * value) for value in record["annotations"][0]["bbox"])
    inside = np.zeros((256, 256), dtype=bool)
    inside[y : y + h, x : x + w] = True
    assert change[inside].mean() > 3 * change[:16].mean()


def test_segments_are_painted(shapes, tmp_path):
    draw_data(shapes, tmp_path / "boxes.png", num_images=4, columns=2)
    draw_data(f"{shapes}_panoptic", tmp_path / "segments.png", num_images=4, columns=2)
    boxes, segments = (read(tmp_path / f"{name}.png") for name in ("boxes", "segments"))
    background = slice(16, 20)  # sky
    assert (np.abs(boxes - segments)[background, 20:268].sum(-1) > 10).mean() > 0.5


def test_mapper_shows_what_training_sees(shapes, tmp_path, tiny_cfg):
    tiny_cfg.INPUT.MIN_SIZE_TRAIN = (320,)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_data(shapes, tmp_path / f"{name}.png", cfg=tiny_cfg, seed=seed, num_images=4)
    a, b, c = (read(tmp_path / f"{name}.png") for name in "abc")
    assert a.shape[0] == 320 + 2 * 16
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_dataset_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        draw_data(f"auto:{tmp_path}/none:train", tmp_path / "grid.png")


@pytest.mark.parametrize("name", ["grid", "grid.xyz"])
def test_a_suffix_that_is_no_picture_is_refused(shapes, tmp_path, name):
    with pytest.raises(UserError, match=f"suffix of .*{name} names no format of pictures"):
        draw_data(shapes, tmp_path / name)
