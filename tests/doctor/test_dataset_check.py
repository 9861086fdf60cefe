import json

import pytest

from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.doctor import check_dataset
from d2detr.errors import UserError
from tests.dataset_trees import FORMATS, voc
from tests.doctor.conftest import SPLITS, TRAIN, VAL

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")


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


def test_says_what_is_held_out_for_validation(plant):
    root = plant()
    assert "it is divided into train and val" in str(check_dataset(str(root)))
    report = check_dataset(str(root / "annotations" / "instances_train2017.json"))
    said = "2 of its 10 images were drawn for validation"
    assert said in str(report)
    assert said in report.as_dict()["division"]


def test_report_for_machines(plant):
    root = plant(lambda data: data.train["annotations"][0].update(iscrowd="0"))
    report = json.loads(json.dumps(check_dataset(str(root)).as_dict()))
    (finding,) = report["findings"]
    assert (finding["code"], finding["split"], finding["count"]) == ("bad_iscrowd", "train", 1)
    assert finding["severity"] == "error"
    assert report["splits"]["val"]["images"] == 3


def test_two_registered_names_are_training_and_validation(plant):
    plant(lambda data: data.train.update(annotations=data.train["annotations"][:4]))
    assert {x.code for x in check_dataset(TRAIN, val=VAL).findings} == {"class_absent_in_training"}
    assert check_dataset(TRAIN).findings == []


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
