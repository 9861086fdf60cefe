import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pycocotools.mask as mask_util
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools.coco import COCO

from d2detr.datasets import ShapesSplit, register_shapes, register_shapes_split
from d2detr.datasets.shapes import HARD, STUFF_CLASSES, THING_CLASSES, draw_shapes_image
from d2detr.datasets.shapes_dataset import VERSION, ensure_shapes_files
from d2detr.errors import UserError

SPLIT = ShapesSplit(num_images=6, size=64, seed=3)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("shapes") / "train"
    ensure_shapes_files(directory, SPLIT)
    return directory


@pytest.fixture
def registered(directory, forget_datasets):
    register_shapes_split("some_shapes", directory, SPLIT)


def drawn(index):
    return draw_shapes_image([VERSION, SPLIT.seed, index], SPLIT.size)


def test_files_hold_what_was_drawn(directory, registered):
    for index, record in enumerate(DatasetCatalog.get("some_shapes")):
        shapes = drawn(index)
        image = np.asarray(Image.open(record["file_name"]))
        assert np.abs(image.astype(int) - shapes.image).mean() < 5
        assert [item["category_id"] for item in record["annotations"]] == shapes.classes
        for item, mask in zip(record["annotations"], shapes.masks, strict=True):
            assert np.array_equal(mask_util.decode(item["segmentation"]), mask)
            x, y, width, height = item["bbox"]
            rows, columns = np.nonzero(mask)
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)


def test_instance_file_is_ordinary_coco(directory, capsys):
    coco = COCO(str(directory / "instances.json"))
    assert len(coco.getImgIds()) == SPLIT.num_images
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(THING_CLASSES)
    for annotation in coco.loadAnns(coco.getAnnIds()):
        assert annotation["id"] > 0
        assert annotation["iscrowd"] == 0
        assert annotation["area"] == coco.annToMask(annotation).sum()


def test_panoptic_files_follow_the_coco_format(directory):
    content = json.loads((directory / "panoptic.json").read_text())
    assert [c["isthing"] for c in content["categories"]] == [1] * 5 + [0] * 2
    assert [c["name"] for c in content["categories"]] == [*THING_CLASSES, *STUFF_CLASSES]
    for index, annotation in enumerate(content["annotations"]):
        shapes = drawn(index)
        colors = np.asarray(Image.open(directory / "panoptic" / annotation["file_name"]))
        ids = colors.astype(int) @ (1, 256, 256**2)
        assert set(np.unique(ids)) == {s["id"] for s in annotation["segments_info"]}
        categories = np.zeros_like(ids)
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            rows, columns = np.nonzero(mask)
            x, y, width, height = segment["bbox"]
            assert segment["area"] == mask.sum()
            assert segment["iscrowd"] == 0
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width, y + height) == (columns.max() + 1, rows.max() + 1)
            categories[mask] = segment["category_id"]
        expected = shapes.stuff + 6
        for label, mask in zip(shapes.classes, shapes.masks, strict=True):
            expected[mask] = label + 1
        assert np.array_equal(categories, expected)


def test_panoptic_variant_loads_with_contiguous_classes(registered):
    metadata = MetadataCatalog.get("some_shapes_panoptic")
    for index, record in enumerate(DatasetCatalog.get("some_shapes_panoptic")):
        names = [
            (metadata.thing_classes if s["isthing"] else metadata.stuff_classes)[s["category_id"]]
            for s in record["segments_info"]
        ]
        things = [THING_CLASSES[label] for label in drawn(index).classes]
        assert names[: len(things)] == things
        assert set(names[len(things) :]) <= set(STUFF_CLASSES)


def test_images_do_not_depend_on_their_number(directory, tmp_path):
    ensure_shapes_files(tmp_path / "fewer", ShapesSplit(num_images=2, size=64, seed=3))
    for file in (tmp_path / "fewer" / "images").iterdir():
        assert file.read_bytes() == (directory / "images" / file.name).read_bytes()


def test_train_and_val_are_registered_and_written_when_loaded(tmp_path, forget_datasets):
    for name in ("shapes_train", "shapes_val", "shapes_hard_train", "shapes_hard_val"):
        assert name in DatasetCatalog
        assert f"{name}_panoptic" in DatasetCatalog
        assert MetadataCatalog.get(name).evaluator_type == "coco"
        assert MetadataCatalog.get(name).thing_classes == list(THING_CLASSES)
    val = DatasetCatalog.pop("shapes_val"), MetadataCatalog.pop("shapes_val")
    try:
        register_shapes(tmp_path)
        assert list(tmp_path.iterdir()) == []
        dataset = DatasetCatalog.get("shapes_val")
        assert len(dataset) == 200
        assert all(record["annotations"] for record in dataset)
        json_file = MetadataCatalog.get("shapes_val").json_file
        assert json_file == str(tmp_path / "shapes" / "val" / "instances.json")
    finally:
        DatasetCatalog["shapes_val"], MetadataCatalog["shapes_val"] = val


def test_train_and_val_differ():
    assert ShapesSplit(num_images=1, seed=0) != ShapesSplit(num_images=1, seed=1)
    one, other = (draw_shapes_image([VERSION, seed, 0], 64).image for seed in (0, 1))
    assert not np.array_equal(one, other)


def test_files_of_easy_shapes_are_described_as_before_there_were_hard_ones(directory):
    description = json.loads((directory / "description.json").read_text())
    assert description == {"num_images": 6, "size": 64, "seed": 3, "version": 1}


def test_hard_files_are_told_from_easy_ones(tmp_path):
    hard = ShapesSplit(num_images=2, size=64, seed=3, difficulty=HARD)
    ensure_shapes_files(tmp_path / "train", hard)
    marker = tmp_path / "train" / "images" / "000001.jpg"
    drawn_hard = marker.read_bytes()
    marker.write_bytes(b"mine")
    ensure_shapes_files(tmp_path / "train", hard)
    assert marker.read_bytes() == b"mine"
    ensure_shapes_files(tmp_path / "train", ShapesSplit(num_images=2, size=64, seed=3))
    assert marker.read_bytes() not in (b"mine", drawn_hard)


def test_complete_files_are_left_alone(tmp_path):
    ensure_shapes_files(tmp_path / "train", SPLIT)
    marker = tmp_path / "train" / "images" / "000001.jpg"
    marker.write_bytes(b"mine")
    ensure_shapes_files(tmp_path / "train", SPLIT)
    assert marker.read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["image", "panoptic", "json", "version"])
def test_incomplete_or_outdated_files_are_replaced(tmp_path, damage):
    directory = tmp_path / "train"
    ensure_shapes_files(directory, SPLIT)
    if damage == "image":
        (directory / "images" / "000002.jpg").unlink()
    elif damage == "panoptic":
        (directory / "panoptic" / "000002.png").unlink()
    elif damage == "json":
        (directory / "instances.json").unlink()
    else:
        description = json.loads((directory / "description.json").read_text())
        description["version"] -= 1
        (directory / "description.json").write_text(json.dumps(description))
        (directory / "instances.json").write_text("{}")
    ensure_shapes_files(directory, SPLIT)
    assert len(list((directory / "images").iterdir())) == SPLIT.num_images
    assert len(list((directory / "panoptic").iterdir())) == SPLIT.num_images
    assert len(json.loads((directory / "instances.json").read_text())["images"]) == 6
    assert json.loads((directory / "description.json").read_text())["version"] == VERSION
    assert {path.name for path in tmp_path.iterdir()} == {"train", "train.lock"}


def test_simultaneous_starts_write_once(tmp_path, monkeypatch):
    calls = []

    def counting(seed, *options):
        calls.append(seed)
        return draw_shapes_image(seed, *options)

    monkeypatch.setattr("d2detr.datasets.shapes_dataset.draw_shapes_image", counting)
    with ThreadPoolExecutor(4) as executor:
        list(executor.map(lambda _: ensure_shapes_files(tmp_path / "train", SPLIT), range(4)))
    assert len(calls) == SPLIT.num_images


def test_foreign_files_are_not_touched(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds something else"):
        ensure_shapes_files(tmp_path / "train", SPLIT)
    assert (tmp_path / "train" / "notes.txt").read_text() == "mine"


def test_unwritable_place_is_explained(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .* DETECTRON2_DATASETS"):
        ensure_shapes_files(tmp_path / "file" / "train", SPLIT)
