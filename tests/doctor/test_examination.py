import json
import logging
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.doctor import check_dataset, check_datasets
from d2detr.doctor.findings import KINDS
from d2detr.errors import UserError
from tests.doctor.conftest import TRAIN, VAL


def change(section, index, **values):
    return lambda data: data.train[section][index].update(values)


def repeat(section, index, **values):
    return lambda data: data.train[section].append({**data.train[section][index], **values})


def add(section, entry):
    return lambda data: data.train[section].append(entry)


def in_both(edit):
    def apply(data):
        edit(data.train)
        edit(data.val)

    return apply


def text_image_id(data):
    for entry in (*data.train["images"][:1], *data.train["annotations"]):
        key = "id" if "file_name" in entry else "image_id"
        entry[key] = "one" if entry[key] == 1 else entry[key]


def all_boxes(convert):
    def apply(data):
        for annotation in data.train["annotations"]:
            annotation.update(bbox=convert(*annotation["bbox"]), segmentation=[])

    return apply


def to_unit(x, y, w, h):
    return [x / 96, y / 72, w / 96, h / 72]


def lose_data_inside(data):
    path = data.root / "train2017" / "img_1_000.jpg"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 3 // 4] + b"\xff\xd9")


def cut(data):
    os.truncate(data.root / "train2017" / "img_1_000.jpg", 600)


def damage_inside(data):
    path = data.root / "train2017" / "img_1_003.png"
    Image.effect_noise((96, 72), 90).convert("RGB").save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    data.train["images"][3]["file_name"] = path.name


def turn(data):
    exif = Image.Exif()
    exif[274] = 8
    path = data.root / "train2017" / "img_1_001.jpg"
    with Image.open(path) as image:
        image.save(path, exif=exif)


def reverse_classes(data):
    names = [category["name"] for category in data.val["categories"]]
    for category, name in zip(data.val["categories"], reversed(names), strict=True):
        category["name"] = name


def count_from_zero(content):
    for category in content["categories"]:
        category["id"] -= 1
    for annotation in content["annotations"]:
        annotation["category_id"] -= 1


def remove_stars(data):
    data.train["annotations"] = [x for x in data.train["annotations"] if x["category_id"] != 4]


def copy_to_val(data):
    source, target = data.root / "train2017", data.root / "val2017"
    shutil.copy(source / "img_1_002.jpg", target / "img_2_001.jpg")


# Boxes are within 96 x 72 pixels unless they are the fault.
FAULTS = {
    "malformed_image": add("images", None),
    "malformed_annotation": add("annotations", None),
    "text_image_id": text_image_id,
    "duplicate_image_id": repeat("images", 0),
    "duplicate_annotation_id": change("annotations", 1, id=1),
    "duplicate_category_id": in_both(
        lambda content: content["categories"].append({"id": 5, "name": "other"})
    ),
    "bad_size": change("images", 0, width="96"),
    "bad_class_name": in_both(lambda content: content["categories"][0].update(name=None)),
    "duplicate_class_name": in_both(lambda content: content["categories"][1].update(name="circle")),
    "unknown_class": change("annotations", 0, category_id=9),
    "broken_box": change("annotations", 0, bbox=[1, 2, 10**400, 4], segmentation=[]),
    "text_box": change("annotations", 0, bbox=["1", "2", "8", "9"], segmentation=[]),
    "bad_iscrowd": change("annotations", 0, iscrowd="0"),
    "normalised_boxes": all_boxes(to_unit),
    "xyxy_boxes": all_boxes(lambda x, y, w, h: [x, y, x + w, y + h]),
    "no_objects": lambda data: data.val.update(annotations=[]),
    "missing_image": change("images", 0, file_name="gone.jpg"),
    "unreadable_image": cut,
    "exif_rotated": turn,
    "wrong_size": change("images", 0, width=100),
    "class_order": reverse_classes,
    "unknown_image": repeat("annotations", 0, id=99, image_id=77),
    "first_category_id": in_both(count_from_zero),
    "duplicate_file_name": repeat("images", 0, id=99),
    "ends_grey": lose_data_inside,
    "degenerate_box": change("annotations", 0, bbox=[5, 5, 0, 8], segmentation=[]),
    "outside_box": change("annotations", 0, bbox=[80, 5, 30, 8], segmentation=[]),
    "duplicate_box": repeat("annotations", 0, id=99),
    "unusable_mask": change("annotations", 0, segmentation=[[1, 2, 3, 4]]),
    "mask_mismatch": change("annotations", 0, segmentation=[[1, 1, 5, 1, 5, 5]]),
    "class_absent_in_training": remove_stars,
    "class_names_differ": lambda data: data.val["categories"][4].update(name="other"),
    "image_in_both_splits": copy_to_val,
}
PANOPTIC_FAULTS = {
    "bad_segment_id": lambda segments: segments[0].update(id=2**24),
    "duplicate_segment_id": lambda segments: segments[0].update(id=segments[1]["id"]),
    "segments_differ": lambda segments: segments.pop(),
}
OTHERS = {"missing_mask", "more_objects_than_queries", "class_count"}  # depend on the model


def test_every_kind_of_fault_is_planted_here():
    assert {*FAULTS, *PANOPTIC_FAULTS, *OTHERS} == set(KINDS)


@pytest.fixture
def verdicts(caplog):
    """Returns what is said of a config's datasets by their doctor, after comparing the trainer."""

    def compare(cfg, train=TRAIN, val=VAL):
        masks, queries = cfg.MODEL.MASK_ON, cfg.MODEL.DETR.NUM_OBJECT_QUERIES
        report = check_dataset(train, num_queries=queries, val=val, trains_masks=masks)
        refusal = ""
        with caplog.at_level(logging.WARNING, "d2detr"):
            try:
                check_datasets(cfg)
            except UserError as error:
                refusal = str(error)
        warned = [x.getMessage() for x in caplog.records if x.name == "d2detr.doctor.preflight"]
        errors = [line for line in refusal.split("\n") if line.startswith("Dataset ")]
        assert errors == [f"Dataset {x.split!r}: {x}." for x in report.errors]
        assert warned == [f"{x.split}: {x}." for x in report.warnings]
        for finding in report.findings:
            assert finding.severity == KINDS[finding.code][0] or finding.code == "unusable_mask"
            assert finding.examples[0] in str(report)
        return report

    return compare


@pytest.mark.parametrize("code", FAULTS)
def test_trainer_and_doctor_find_each_fault_and_nothing_else(plant, planted_cfg, verdicts, code):
    plant(FAULTS[code])
    planted_cfg.MODEL.MASK_ON = "mask" in code
    split = VAL if code.startswith(("class_", "image_in", "no_")) else TRAIN
    found = {(x.code, x.split) for x in verdicts(planted_cfg).findings}
    assert found - {("first_category_id", VAL)} <= {(code, split), (code, VAL)}
    assert (code, split) in found


@pytest.mark.parametrize("code", PANOPTIC_FAULTS)
def test_faults_of_panoptic_datasets(tmp_path, forget_datasets, tiny_mask_cfg, verdicts, code):
    directory = tmp_path / "shapes"
    register_shapes_split("shapes_x", directory, ShapesSplit(num_images=3, size=48))
    load_dataset("shapes_x_panoptic")
    file = directory / "panoptic.json"
    content = json.loads(file.read_text())
    PANOPTIC_FAULTS[code](content["annotations"][2]["segments_info"])
    file.write_text(json.dumps(content))
    tiny_mask_cfg.DATASETS.TRAIN, tiny_mask_cfg.DATASETS.TEST = ("shapes_x_panoptic",), ()
    report = verdicts(tiny_mask_cfg, "shapes_x_panoptic", None)
    assert [x.code for x in report.findings] == [code]
    assert "000003.png" in report.findings[0].examples[0]


def test_objects_without_masks_stop_mask_training_alone(plant, planted_cfg, verdicts):
    plant(change("annotations", 0, segmentation=[]))
    assert verdicts(planted_cfg).findings == []
    planted_cfg.MODEL.MASK_ON = True
    assert [x.code for x in verdicts(planted_cfg).findings] == ["missing_mask"]


def test_more_objects_than_queries(plant, planted_cfg, verdicts):
    plant()
    planted_cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 2
    report = verdicts(planted_cfg)
    assert {x.code for x in report.findings} == {"more_objects_than_queries"}
    assert "more than 2 objects (at most 3)" in str(report)


def test_other_number_of_classes(plant, planted_cfg):
    plant(lambda data: data.val["categories"].append({"id": 6, "name": "more"}))
    assert [x.code for x in check_dataset(TRAIN, val=VAL).findings] == ["class_count"]
    with pytest.raises(UserError, match="has 5 classes, but dataset 'planted_val' has 6"):
        check_datasets(planted_cfg)


def test_all_faults_of_all_datasets_are_listed_at_once(plant, planted_cfg, verdicts):
    def spoil(data):
        FAULTS["missing_image"](data)
        FAULTS["broken_box"](data)
        FAULTS["no_objects"](data)

    plant(spoil)
    found = {(x.code, x.split) for x in verdicts(planted_cfg).errors}
    assert found == {("missing_image", TRAIN), ("broken_box", TRAIN), ("no_objects", VAL)}


def test_damage_inside_is_found_in_small_datasets_and_by_decoding(plant, monkeypatch):
    plant(damage_inside)
    assert [x.code for x in check_dataset(TRAIN).findings] == ["unreadable_image"]
    monkeypatch.setattr("d2detr.doctor.examination.NUM_DECODED", 2)
    report = check_dataset(TRAIN)
    assert report.findings == []
    assert "Not looked at: planted_train: the inside of 8 of 10 image files" in str(report)
    report = check_dataset(TRAIN, decode=True)
    assert [x.code for x in report.findings] == ["unreadable_image"]
    assert report.skipped == []


def test_test_images_without_annotations_are_no_fault(plant, planted_cfg, verdicts):
    plant(lambda data: data.val.pop("annotations"))
    assert verdicts(planted_cfg).findings == []


def annotation(**values):
    box = {"bbox": [1, 2, 11, 12], "bbox_mode": BoxMode.XYXY_ABS, "category_id": 0}
    return {**box, **values}


RECORD_FAULTS = {
    "unknown_class": annotation(category_id=2),
    "broken_box": annotation(bbox=(0, 0, np.nan, 5)),
    "text_box": annotation(bbox=["1", "2", "11", "13"]),
    "malformed_annotation": annotation(bbox_mode=BoxMode.XYWHA_ABS),
    "bad_iscrowd": annotation(bbox=[3, 3, 9, 9], iscrowd=None),
    "duplicate_box": annotation(id=7),
}


@pytest.mark.parametrize("code", RECORD_FAULTS)
def test_faults_of_records(tmp_path, forget_datasets, cfg, verdicts, code):
    path = tmp_path / "x.png"
    Image.new("RGB", (40, 30)).save(path)
    record = {"file_name": str(path), "width": 40, "height": 30}
    record["annotations"] = [annotation(id=3), RECORD_FAULTS[code]]
    DatasetCatalog.register("records", lambda: [record])
    MetadataCatalog.get("records").thing_classes = ["a", "b"]
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("records",), ()
    (finding,) = verdicts(cfg, "records", None).findings
    assert finding.code == code
    named = f"annotation {RECORD_FAULTS[code].get('id', 'number 2')} of image {path}"
    assert finding.examples[0].startswith(named)
