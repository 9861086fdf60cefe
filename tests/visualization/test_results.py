import json
import shutil
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import MetadataCatalog
from PIL import Image

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError
from d2detr.visualization import draw_results
from d2detr.visualization.mistakes import KINDS


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    directory = tmp_path_factory.mktemp("datasets") / "drawn"
    register_shapes_split("drawn_shapes", directory, ShapesSplit(num_images=3, size=64))
    return "drawn_shapes"


def draw(shapes, tmp_path, detections):
    results, output = tmp_path / "results.json", tmp_path / "new" / "grid.png"
    results.write_text(json.dumps(detections))
    draw_results(shapes, results, output, num_images=3, columns=2)
    return np.asarray(Image.open(output)).astype(int)


def test_confident_detections_are_drawn_on_the_right(shapes, tmp_path):
    detection = {"image_id": 1, "category_id": 2, "bbox": [8, 8, 40, 40]}
    without = draw(shapes, tmp_path, [{**detection, "score": 0.4}])
    drawn = draw(shapes, tmp_path, [{**detection, "score": 0.9}])
    changed = (drawn != without).any(-1)
    rows, columns = np.nonzero(changed)
    width = drawn.shape[1] // 2  # of the first image, whose right half shows the predictions
    assert len(rows) > 0
    assert width / 2 < columns.min() and columns.max() < width
    assert rows.max() < drawn.shape[0] / 2


def test_missing_and_truncated_results(shapes, tmp_path):
    with pytest.raises(UserError, match="none.json does not exist"):
        draw_results(shapes, tmp_path / "none.json", tmp_path / "grid.png")
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(UserError, match="cut.json is not JSON, or was cut off"):
        draw_results(shapes, tmp_path / "cut.json", tmp_path / "grid.png")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"image_id": 1, "bbox": [0, 0, 1, 1]}], "Entry 0 of .* lacks category_id, score"),
        ([None], "Entry 0 of .* lacks bbox"),
        ({"annotations": [{"image_id": 1}]}, "Entry 0 of .* lacks file_name, segments_info"),
        ({}, "holds no list of results"),
        (7, "holds no list of results"),
    ],
    ids=["keys", "null", "panoptic", "no-annotations", "number"],
)
def test_results_of_another_shape(shapes, tmp_path, content, message):
    with pytest.raises(UserError, match=message):
        draw(shapes, tmp_path, content)


def test_panoptic_results_of_a_dataset_of_boxes(shapes, tmp_path):
    results = tmp_path / "panoptic.json"
    results.write_text(json.dumps({"annotations": []}))
    with pytest.raises(UserError, match=f"'{shapes}' has none to compare with"):
        draw_results(shapes, results, tmp_path / "grid.png")


def encode(mask):
    rle = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": rle["size"], "counts": rle["counts"].decode()}


def test_masks_are_drawn(shapes, tmp_path):
    """Two masks in the same box give different pictures."""
    detection = {"image_id": 1, "category_id": 2, "bbox": [8, 8, 40, 40], "score": 0.9}
    mask = np.zeros((64, 64))
    mask[8:48, 8:48] = 1
    whole = draw(shapes, tmp_path, [{**detection, "segmentation": encode(mask)}])
    mask[8:48, 8:28] = 0
    half = draw(shapes, tmp_path, [{**detection, "segmentation": encode(mask)}])
    assert (whole != half).any(-1).sum() > 500


def test_panoptic_results(shapes, tmp_path):
    """Predictions that are the truth give the same picture on both sides, others do not."""
    name = f"{shapes}_panoptic"
    content = json.loads(Path(MetadataCatalog.get(name).panoptic_json).read_text())
    shutil.copytree(MetadataCatalog.get(name).panoptic_root, tmp_path / "panoptic")
    results, output = tmp_path / "panoptic.json", tmp_path / "grid.png"

    def sides():
        results.write_text(json.dumps({"annotations": content["annotations"]}))
        np.random.seed(0)
        draw_results(name, results, output, num_images=1, columns=1)
        picture = np.asarray(Image.open(output)).astype(int)[16:-16, 16:-16]
        width = (picture.shape[1] - 8) // 2
        return picture[:, :width], picture[:, -width:]

    left, right = sides()
    assert (np.abs(left - right).max(-1) > 60).mean() < 0.05  # colours are jittered
    for segment in content["annotations"][0]["segments_info"]:
        segment["category_id"] = 6 if segment["category_id"] == 7 else 7
    left, right = sides()
    assert (np.abs(left - right).max(-1) > 60).mean() > 0.2


def test_instances_of_a_panoptic_dataset(shapes, tmp_path):
    assert draw(f"{shapes}_panoptic", tmp_path, []).shape == draw(shapes, tmp_path, []).shape


def test_worst_images_come_first(shapes, tmp_path):
    perfect, results = [], tmp_path / "results.json"
    for record in load_dataset(shapes):
        if record["image_id"] != 3:
            perfect += [
                {
                    "image_id": record["image_id"],
                    "category_id": x["category_id"] + 1,
                    "bbox": x["bbox"],
                    "score": 0.9,
                }
                for x in record["annotations"]
            ]
    results.write_text(json.dumps(perfect))
    pictures = {}
    for order in ("first", "worst", "missed"):
        output = tmp_path / f"{order}.png"
        mistakes = draw_results(shapes, results, output, num_images=1, order=order)
        pictures[order] = np.asarray(Image.open(output))
    missed = len(load_dataset(shapes)[2]["annotations"])
    assert mistakes == {**dict.fromkeys(KINDS, 0), "missed": missed}
    np.testing.assert_array_equal(pictures["worst"], pictures["missed"])
    assert (pictures["worst"] != pictures["first"]).any()


def test_unknown_order(shapes, tmp_path):
    with pytest.raises(UserError, match="Order 'best' is unknown; choose from first, worst"):
        draw_results(shapes, tmp_path / "none.json", tmp_path / "grid.png", order="best")
