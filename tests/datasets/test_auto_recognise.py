import json
import os
import shutil

import pytest

from d2detr.datasets import register_auto_dataset
from d2detr.datasets.auto import coco_json
from tests.dataset_trees import coco, coco_roboflow, two_splits, voc, voc_roboflow, write_json
from tests.datasets.auto_checks import boxes_by_image, refuse, truth

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")


@pytest.fixture(scope="module")
def splits():
    return two_splits()


@pytest.fixture
def folder(tmp_path, splits):
    coco(tmp_path, splits)
    return tmp_path


def train_json(folder):
    return folder / "annotations" / "instances_train2017.json"


# ------------------------------------------------------------------------------------------------
# What looks like a split and cannot be used is refused; validation is never trained on instead
# ------------------------------------------------------------------------------------------------


def without_categories(content):
    return {key: value for key, value in content.items() if key != "categories"}


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (without_categories, "it has no list 'categories'"),
        (lambda content: [content], "it is a list"),
        (lambda content: content["annotations"], "it is a list"),
        (lambda content: {"data": [content]}, "it has no list 'categories'"),
        (lambda content: {**content, "images": None}, "it has no list 'images'"),
        (lambda content: {**content, "annotations": {}}, "it has no list 'annotations'"),
        (lambda content: "train", "it is a str"),
    ],
)
@pytest.mark.parametrize("name", ["annotations/instances_train2017.json", "train.json"])
def test_training_file_of_another_form(folder, splits, edit, problem, name):
    train_json(folder).unlink()
    write_json(folder / name, edit(splits["train"][0]))
    refuse(folder, f"{folder / name}: it is not in COCO format, because {problem}")


def test_objects_without_boxes(folder, splits):
    content = json.loads(json.dumps(splits["train"][0]))
    for annotation in content["annotations"]:
        del annotation["bbox"]
    write_json(train_json(folder), content)
    refuse(folder, f"{train_json(folder)}: none of its annotations has a 'bbox'")


@pytest.mark.parametrize("damage", [lambda x: x[:90], lambda x: "", lambda x: "[1, 2"])
@pytest.mark.parametrize("name", ["train.json", "train/_annotations.coco.json"])
def test_training_file_that_is_damaged(folder, damage, name):
    text = train_json(folder).read_text()
    train_json(folder).unlink()
    (folder / "train").mkdir()
    (folder / name).write_text(damage(text))
    refuse(folder, f"{folder / name} is not valid JSON, or truncated")


def test_all_broken_files_are_named(tmp_path, splits):
    coco_roboflow(tmp_path, splits)
    files = sorted(tmp_path.rglob("*.json"))
    for file in files:
        file.write_text(file.read_text()[:90])
    refuse(tmp_path, *map(str, files))


def test_voc_split_without_a_readable_file(tmp_path, splits):
    voc_roboflow(tmp_path, splits)
    files = sorted((tmp_path / "train").glob("*.xml"))
    files[0].write_text("")
    assert str(files[0]) in refuse(tmp_path, "1 annotation files that cannot be used")
    for file in files:
        file.write_text("")
    refuse(tmp_path, f"{files[0]} is not valid XML")


# ------------------------------------------------------------------------------------------------
# What belongs to no dataset is passed over
# ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.json", "{broken"),
        ("empty.json", ""),
        ("deep/tsconfig.json", "{ // with comments\n}"),
        ("latin.json", '{"a": "ä"}'.encode("latin-1")),
        ("layout.xml", "<a"),
    ],
)
def test_unrelated_file_that_cannot_be_read(folder, splits, caplog, name, text):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with caplog.at_level("WARNING", logger="d2detr"):
        names = register_auto_dataset(folder)
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert "1 JSON or XML files were passed over" in caplog.text
    assert str(path) in caplog.text


def test_annotations_of_other_kinds_and_results(folder, splits):
    content = splits["train"][0]
    captions = [{"id": 1, "image_id": 1, "caption": "a star"}]
    panoptic = [{"image_id": 1, "file_name": "a.png", "segments_info": []}]
    results = [{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "score": 0.5}]
    places = folder / "annotations"
    write_json(places / "captions_train2017.json", {**content, "annotations": captions})
    write_json(places / "panoptic_val2017.json", {**content, "annotations": panoptic})
    write_json(places / "image_info_test2017.json", without_annotations(content))
    write_json(folder / "results_val.json", results)
    write_json(folder / "train_metrics.json", {"loss": 1.0})
    (folder / "leads_nowhere.json").symlink_to(folder / "nowhere")
    assert boxes_by_image(register_auto_dataset(folder)["val"]) == truth(splits["val"][0])


def without_annotations(content):
    return {key: value for key, value in content.items() if key != "annotations"}


def test_a_file_that_was_named_is_read_whatever_lies_beside_it(folder, splits):
    (folder / "annotations" / "train_old.json").write_text('{"images": [{')
    refuse(folder, "train_old.json")
    names = register_auto_dataset(train_json(folder))
    assert boxes_by_image(names["all"]) == truth(splits["train"][0])


@pytest.mark.parametrize("name", ["notes.txt", "other.yaml", "list.json"])
def test_a_file_that_was_named_and_is_no_dataset(folder, name):
    (folder / name).write_text("[]")
    refuse(folder / name, str(folder / name))


def test_the_same_dataset_through_a_link(tmp_path, splits):
    for write in (coco, voc):
        write(tmp_path / write.__name__ / "v2", splits)
        (tmp_path / write.__name__ / "current").symlink_to(tmp_path / write.__name__ / "v2")
        names = register_auto_dataset(tmp_path / write.__name__)
        assert boxes_by_image(names["val"]) == truth(splits["val"][0])


# ------------------------------------------------------------------------------------------------
# Encodings
# ------------------------------------------------------------------------------------------------


def test_byte_order_mark_is_read(folder, splits):
    text = train_json(folder).read_text()
    train_json(folder).write_text(text, encoding="utf-8-sig")
    assert boxes_by_image(register_auto_dataset(folder)["train"]) == truth(splits["train"][0])


@pytest.mark.parametrize(
    ("encoding", "words"),
    [("utf-16", "is in UTF-16, not in UTF-8"), ("latin-1", "Latin-1 or Windows-1252")],
)
def test_other_encodings_are_named(folder, encoding, words):
    text = train_json(folder).read_text().replace("star", "étoile")
    train_json(folder).write_text(text, encoding=encoding)
    message = refuse(folder, str(train_json(folder)), words)
    command = message[message.index("iconv") :]
    assert os.system(command) == 0
    assert train_json(folder).read_text() == text


# ------------------------------------------------------------------------------------------------
# Files that have not changed are not read again
# ------------------------------------------------------------------------------------------------


def test_json_files_are_judged_once(folder, monkeypatch):
    write_json(folder / "unrelated.json", {"a": 1})
    register_auto_dataset(folder)
    read = []
    monkeypatch.setattr(coco_json, "read_json", lambda path: read.append(path) or {})
    register_auto_dataset(folder)
    assert read == []
    write_json(folder / "unrelated.json", {"a": 12})
    register_auto_dataset(folder)
    assert read == [str(folder / "unrelated.json")]


def test_damaged_memory_of_verdicts_is_renewed(folder, own_cache, splits):
    register_auto_dataset(folder)
    (memory,) = own_cache.rglob("verdicts-*.json")
    for text in ("", '{"a":'):
        memory.write_text(text)
        names = register_auto_dataset(folder)
        assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert not list(own_cache.rglob(".new-*"))


def test_faults_of_a_converted_file_name_what_it_was_made_from(folder, splits):
    content = json.loads(json.dumps(splits["train"][0]))
    content["annotations"][1]["bbox"] = []
    write_json(train_json(folder), content)
    name = register_auto_dataset(folder)["train"]
    with pytest.raises(Exception, match=f"{train_json(folder)}: annotation 2 has the bbox"):
        boxes_by_image(name)
    shutil.rmtree(folder)
