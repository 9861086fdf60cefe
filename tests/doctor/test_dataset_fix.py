import json
from pathlib import Path

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.structures import BoxMode
from PIL import Image

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.doctor import check_dataset, fix_dataset
from d2detr.errors import UserError
from tests.dataset_trees import coco
from tests.doctor.conftest import SPLITS, TRAIN, VAL
from tests.doctor.test_examination import FAULTS, all_boxes, in_both, to_unit

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")
LEFT = {
    *("unusable_mask", "mask_mismatch", "bad_class_name", "duplicate_class_name", "no_objects"),
    *("normalised_boxes", "class_order", "class_names_differ", "class_absent_in_training"),
    *("duplicate_file_name", "first_category_id", "text_image_id", "duplicate_category_id"),
    "ends_grey",
}


def numeric_names(content):
    for category in content["categories"]:
        category["name"] = category["id"]


CORRECTED = {code: FAULTS[code] for code in sorted(set(FAULTS) - LEFT)}
CORRECTED["bad_class_name"] = in_both(numeric_names)


@pytest.mark.parametrize("code", CORRECTED)
def test_corrected_file_has_none_of_it(plant, tmp_path, code):
    plant(CORRECTED[code])
    report = check_dataset(TRAIN, val=VAL)
    assert code in {x.code for x in report.findings}
    said = fix_dataset(report, tmp_path / "fixed")
    assert not any("was left" in words for words in said)
    again = check_dataset(str(tmp_path / "fixed" / f"{TRAIN}.json"))
    assert code not in {x.code for x in again.findings}
    before = report.as_dict()["splits"][TRAIN]["annotations"]
    fixed = json.loads((tmp_path / "fixed" / f"{TRAIN}.json").read_text())
    assert before - 3 <= len(fixed["annotations"]) <= before
    load_coco_json(str(tmp_path / "fixed" / f"{TRAIN}.json"), "", f"fixed_{code}")


@pytest.mark.parametrize("code", sorted(LEFT - {"text_image_id"}))
def test_what_only_people_can_decide_is_left_and_said(plant, tmp_path, code):
    plant(FAULTS[code])
    said = fix_dataset(check_dataset(TRAIN, val=VAL), tmp_path / "fixed")
    assert any(f"{code} was left" in words for words in said)


def test_boxes_in_corners_are_rewritten_with_a_word(plant, tmp_path):
    before = [x["bbox"] for x in SPLITS["train"][0]["annotations"]]
    plant(FAULTS["xyxy_boxes"])
    said = fix_dataset(check_dataset(TRAIN), tmp_path / "fixed.json")
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert [x["bbox"] for x in fixed["annotations"]] == before
    assert any("taken to be [x0, y0, x1, y1] and rewritten" in words for words in said)


def test_flags_and_sizes(plant, tmp_path):
    def spoil(data):
        for annotation, flag in zip(data.train["annotations"], ("0", "1", None), strict=False):
            annotation["iscrowd"] = flag
        data.train["images"][0].update(width=None)

    plant(spoil)
    fix_dataset(check_dataset(TRAIN), tmp_path / "fixed.json")
    fixed = json.loads((tmp_path / "fixed.json").read_text())
    assert [x["iscrowd"] for x in fixed["annotations"][:3]] == [0, 1, 0]
    assert fixed["images"][0]["width"] == 96


def test_shifted_category_ids_are_left(plant, tmp_path):
    def shift(data):
        for category in data.train["categories"]:
            category["id"] -= 1

    plant(shift)
    report = check_dataset(TRAIN)
    assert "all of them are off by +1" in str(report)
    said = fix_dataset(report, tmp_path / "fixed")
    assert any("shifted category ids were left" in words for words in said)


def test_records_become_a_coco_file(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "x.png")
    item = {"bbox": ["1", "2", "11", "12"], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    mask = np.pad(np.ones((10, 10), dtype=np.uint8), ((2, 18), (1, 29)))
    record = {"file_name": str(tmp_path / "x.png"), "annotations": [{**item, "segmentation": mask}]}
    DatasetCatalog.register("records", lambda: [record])
    MetadataCatalog.get("records").thing_classes = ["a"]
    fix_dataset(check_dataset("records"), tmp_path / "out")
    (loaded,) = load_coco_json(str(tmp_path / "out" / "records.json"), "", "loaded")
    assert (loaded["width"], loaded["height"]) == (40, 30)
    assert loaded["annotations"][0]["bbox"] == [1, 2, 10, 10]


@pytest.fixture
def inputs(plant):
    root = plant(all_boxes(to_unit))
    return root, {x: x.read_bytes() for x in root.rglob("*.json")}


@pytest.mark.parametrize(
    ("target", "output"),
    [
        ("{root}", "{root}"),
        ("{root}", "{root}/fixed"),
        ("{root}", "{root}/link/../annotations"),
        ("{json}", "{root}/annotations"),
        ("{json}", "{json}"),
        (TRAIN, "{root}/annotations"),
        ("auto:{root}:train", "{cache}"),
        ("auto:{root}:train", "{cache_folder}"),
        ("auto:{root}:train", "{root}"),
    ],
)
def test_nothing_that_was_read_is_written_over(inputs, target, output):
    root, contents = inputs
    json_file = root / "annotations" / "instances_train2017.json"
    places = {"root": root, "json": json_file}
    report = check_dataset(target.format(**places))
    cache = Path(report.inputs[-1])
    places |= {"cache": cache, "cache_folder": cache.parent}
    contents = {**contents, cache: cache.read_bytes()}
    with pytest.raises(UserError, match="--fix: .* (exists already|lies in|is)"):
        fix_dataset(report, output.format(**places))
    assert {x: x.read_bytes() for x in contents} == contents
    assert set(root.rglob("*.json")) <= set(contents)


def test_files_of_others_are_not_written_over(plant, tmp_path):
    report = check_dataset(str(plant()))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "val.json").write_text("precious")
    with pytest.raises(UserError, match=r"out/val.json exists already"):
        fix_dataset(report, tmp_path / "out")
    assert [x.name for x in (tmp_path / "out").iterdir()] == ["val.json"]


def test_panoptic_datasets_cannot_be_corrected(tmp_path):
    register_shapes_split("fix_shapes", tmp_path / "shapes", ShapesSplit(num_images=2, size=48))
    load_dataset("fix_shapes_panoptic")
    with pytest.raises(UserError, match="panoptic"):
        fix_dataset(check_dataset("fix_shapes_panoptic"), tmp_path / "fixed")


def test_folder_of_a_file_that_was_named_may_hold_the_output(tmp_path):
    coco(tmp_path, SPLITS)
    file = tmp_path / "annotations" / "instances_train2017.json"
    fix_dataset(check_dataset(str(file)), tmp_path / "annotations" / "fixed")
