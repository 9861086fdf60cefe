import copy
import json
import os
import shutil

import pytest
from detectron2.data.datasets import load_coco_json
from PIL import Image

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.doctor import check_datasets
from d2detr.doctor.dataset_fix import fix_dataset
from d2detr.doctor.dataset_report import check_dataset
from d2detr.errors import UserError
from tests.dataset_trees import FORMATS, coco, two_splits, voc, write_json

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")
SPLITS = two_splits()


@pytest.fixture
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def planted(tmp_path):
    """Writes a good dataset after ``edit`` has corrupted the training annotations."""

    def write(edit=lambda content: None, split="train"):
        root = tmp_path / "data"
        contents = {name: (copy.deepcopy(x), pixels) for name, (x, pixels) in SPLITS.items()}
        for content, _ in contents.values():
            for annotation in content["annotations"]:
                x, y, w, h = annotation["bbox"]
                annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]
        coco(root, contents)
        file = root / "annotations" / f"instances_{split}2017.json"
        content = json.loads(file.read_text())
        edit(content)
        write_json(file, content)
        return root

    return write


def found(report):
    return {(x.code, x.split): x.count for x in report.findings}


@pytest.mark.parametrize("name", FORMATS)
def test_nothing_is_found_in_a_good_dataset(tmp_path, name):
    FORMATS[name](tmp_path, SPLITS)
    for decode in (False, True):
        report = check_dataset(str(tmp_path), decode)
        assert report.findings == []
    counts = report.as_dict()["splits"]["train"]
    assert (counts["images"], counts["annotations"]) == (10, 20)
    assert counts["classes"]["star"] == 5
    assert "0 kinds of errors, 0 kinds of warnings" in str(report)


def test_nothing_is_found_in_the_embedded_dataset(tmp_path):
    register_shapes_split("report_shapes", tmp_path / "shapes", ShapesSplit(num_images=5, size=64))
    assert check_dataset("report_shapes").findings == []


def change(section, index, **values):
    return lambda content: content[section][index].update(values)


def repeat(section, index, **values):
    return lambda content: content[section].append({**content[section][index], **values})


# Boxes of the planted faults are within 96 x 72 pixels unless they are the fault.
FAULTS = {
    "duplicate_image_id": repeat("images", 0),
    "duplicate_annotation_id": change("annotations", 1, id=1),
    "unknown_image": repeat("annotations", 0, id=99, image_id=77),
    "unknown_class": change("annotations", 0, category_id=9),
    "broken_box": change("annotations", 0, bbox=[1, 2, None, 4], segmentation=[]),
    "degenerate_box": change("annotations", 0, bbox=[5, 5, 0, 8], segmentation=[]),
    "outside_box": change("annotations", 0, bbox=[80, 5, 30, 8], segmentation=[]),
    "duplicate_box": repeat("annotations", 0, id=99),
    "unusable_mask": change("annotations", 0, segmentation=[[1, 2, 3, 4]]),
    "mask_mismatch": change("annotations", 0, segmentation=[[1, 1, 5, 1, 5, 5]]),
    "wrong_size": change("images", 0, width=100),
    "missing_image": change("images", 0, file_name="gone.jpg"),
}
WARNINGS = {
    "unknown_image",
    "degenerate_box",
    "outside_box",
    "duplicate_box",
    "unusable_mask",
    "mask_mismatch",
}


@pytest.mark.parametrize("code", FAULTS)
def test_finds_each_planted_fault_and_nothing_else(planted, code):
    report = check_dataset(str(planted(FAULTS[code])))
    assert found(report) == {(code, "train"): 1}
    assert bool(report.errors) == (code not in WARNINGS)
    assert report.findings[0].examples[0] in str(report)


@pytest.mark.parametrize("code", sorted(set(FAULTS) - {"unusable_mask", "mask_mismatch"}))
def test_corrected_file_has_none_of_it(planted, tmp_path, code):
    root = planted(FAULTS[code])
    report = check_dataset(str(root))
    said = fix_dataset(report, tmp_path / "fixed")
    assert any(x.startswith("train: ") and "nothing" not in x for x in said)
    assert "val: nothing was wrong" in said
    again = check_dataset(str(tmp_path / "fixed"))
    assert again.findings == []
    before, after = (x.as_dict()["splits"]["train"]["annotations"] for x in (report, again))
    assert before - 3 <= after <= before
    load_coco_json(str(tmp_path / "fixed" / "train.json"), "", "fixed_train")


def test_unreadable_and_rotated_images(planted):
    root = planted()
    folder = root / "train2017"
    os.truncate(folder / "img_1_000.jpg", 600)
    exif = Image.Exif()
    exif[274] = 8
    with Image.open(folder / "img_1_001.jpg") as image:
        image.save(folder / "img_1_001.jpg", exif=exif)
    report = check_dataset(str(root))
    assert found(report) == {("unreadable_image", "train"): 1, ("exif_rotated", "train"): 1}
    assert "img_1_001.jpg is (72, 96), annotated as (96, 72)" in str(report)


def test_damage_in_the_middle_is_found_by_decoding(planted):
    root = planted()
    path = root / "train2017" / "img_1_003.png"
    (root / "train2017" / "img_1_003.jpg").unlink()
    Image.effect_noise((96, 72), 90).convert("RGB").save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    file = root / "annotations" / "instances_train2017.json"
    file.write_text(file.read_text().replace("img_1_003.jpg", "img_1_003.png"))
    assert check_dataset(str(root)).findings == []
    assert found(check_dataset(str(root), decode=True)) == {("unreadable_image", "train"): 1}


def test_same_image_under_another_name_in_both_splits(planted):
    root = planted()
    shutil.copy(root / "train2017" / "img_1_002.jpg", root / "val2017" / "img_2_001.jpg")
    report = check_dataset(str(root))
    assert found(report) == {("image_in_both_splits", "val"): 1}
    assert "img_2_001.jpg is " in str(report)


def test_class_without_objects_in_training(planted):
    def remove(content):
        content["annotations"] = [x for x in content["annotations"] if x["category_id"] != 4]

    report = check_dataset(str(planted(remove)))
    assert found(report) == {("class_absent_in_training", "val"): 1}
    assert "star (2 objects)" in str(report)


def test_says_what_is_held_out_for_validation(planted):
    root = planted()
    assert "it is divided into train and val" in str(check_dataset(str(root)))
    report = check_dataset(str(root / "annotations" / "instances_train2017.json"))
    said = "2 of its 10 images were drawn for validation"
    assert said in str(report)
    assert said in report.as_dict()["division"]


def test_crowded_images(planted):
    report = check_dataset(str(planted()), num_queries=2)
    assert {code for code, _ in found(report)} == {"more_objects_than_queries"}
    assert "more than 2 objects (at most 3)" in str(report)


def test_category_ids_that_start_at_zero_or_are_shifted(planted, tmp_path):
    def start_at_zero(content):
        for category in content["categories"]:
            category["id"] -= 1
        for annotation in content["annotations"]:
            annotation["category_id"] -= 1

    root = planted(start_at_zero)
    (root / "annotations" / "instances_val2017.json").unlink()
    assert {x.code for x in check_dataset(str(root)).findings} == {"first_category_id"}

    shutil.rmtree(root)
    root = planted(lambda content: [x.update(id=x["id"] - 1) for x in content["categories"]])
    shutil.rmtree(root / "val2017")
    report = check_dataset(str(root / "annotations" / "instances_train2017.json"))
    assert "all of them are off by +1" in str(report)
    said = fix_dataset(report, tmp_path / "fixed")
    assert any("shifted category ids were left" in x for x in said)


def test_report_for_machines(planted):
    report = json.loads(json.dumps(check_dataset(str(planted(FAULTS["outside_box"]))).as_dict()))
    (finding,) = report["findings"]
    assert (finding["code"], finding["split"], finding["count"]) == ("outside_box", "train", 1)
    assert report["splits"]["val"]["images"] == 3


def test_unknown_name_and_path(tmp_path):
    with pytest.raises(UserError, match="'shapes_trian' is not registered. Did you mean"):
        check_dataset("shapes_trian")
    with pytest.raises(UserError, match="does not exist"):
        check_dataset(str(tmp_path / "nothing"))


def test_dataset_without_a_json_file(tmp_path, monkeypatch):
    from detectron2.data.datasets.pascal_voc import register_pascal_voc

    voc(tmp_path, SPLITS)
    names = [x["name"] for x in SPLITS["train"][0]["categories"]]
    register_pascal_voc("report_voc", str(tmp_path), "train", 2012, names)
    report = check_dataset("report_voc")
    assert report.findings == []
    assert report.as_dict()["splits"]["report_voc"]["annotations"] == 20


@pytest.mark.parametrize("code", ["wrong_size", "missing_image", "unknown_class"])
def test_errors_stop_a_training(planted, cfg, code):
    root = planted(FAULTS[code])
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"auto:{root}:train",), (f"auto:{root}:val",)
    with pytest.raises(UserError, match=r"img_1_000.jpg is \(96, 72\)|gone.jpg|category_id 9"):
        check_datasets(cfg)


@pytest.mark.parametrize("code", ["duplicate_box", "mask_mismatch"])
def test_doubts_are_warnings_before_a_training(planted, cfg, code, caplog):
    root = planted(FAULTS[code])
    cfg.MODEL.MASK_ON = True
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (f"auto:{root}:train",), (f"auto:{root}:val",)
    shutil.copy(root / "train2017" / "img_1_002.jpg", root / "val2017" / "img_2_001.jpg")
    check_datasets(cfg)
    assert "do not fit" in caplog.text or "repeat the class" in caplog.text
    assert "images of validation are in training too" in caplog.text
