import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.coco_faults import find_coco_fault
from d2detr.errors import UserError


def test_loads_a_sound_dataset(tiny_coco):
    directory = tiny_coco()
    assert len(load_dataset("tiny")) == 2
    assert find_coco_fault(str(directory / "instances.json")) is None


def test_unknown_name_lists_near_ones(tiny_coco):
    tiny_coco(name="my_kitchen_train")
    with pytest.raises(UserError, match="'my_kitchn_train' is not registered.*my_kitchen_train"):
        load_dataset("my_kitchn_train")


def test_unknown_name_without_near_ones():
    with pytest.raises(UserError, match="Register it"):
        load_dataset("qqqqqqqqqqqqqqqqqqq")


@pytest.mark.parametrize(
    ("root", "file", "words"),
    [
        ("{tmp}/data", "{tmp}/data/gone.json", "DETECTRON2_DATASETS={tmp}/data"),
        (None, "datasets/gone.json", "DETECTRON2_DATASETS, which .* is not set"),
        (None, "mine/gone.json", "relative to the current folder, which is {tmp}"),
        ("{tmp}/data", "{tmp}/mine/gone.json", "nearest folder .* exists is {tmp}, which holds b"),
    ],
)
def test_missing_annotation_file_tells_where_it_was_expected(
    tmp_path, monkeypatch, forget_datasets, root, file, words
):
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    if root is not None:
        monkeypatch.setenv("DETECTRON2_DATASETS", root.format(tmp=tmp_path))
    register_coco_instances("gone", {}, file.format(tmp=tmp_path), "")
    with pytest.raises(UserError, match=words.format(tmp=tmp_path)) as caught:
        load_dataset("gone")
    assert str(tmp_path / file.format(tmp=tmp_path)) in str(caught.value)
    assert ("DETECTRON2_DATASETS" in str(caught.value)) == words.startswith("DETECTRON2")


@pytest.mark.parametrize("content", ['{"images": [{"id": 1', "", "\x00\x01"])
def test_file_that_is_not_json(tiny_coco, content):
    directory = tiny_coco()
    (directory / "instances.json").write_text(content)
    with pytest.raises(UserError, match=r"instances.json is not valid JSON, or truncated"):
        load_dataset("tiny")


def remove(section, index, key):
    return lambda content: content[section][index].pop(key)


def put(section, index, key, value):
    return lambda content: content[section][index].update({key: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (put("annotations", 1, "category_id", 9), r"annotation 12 has category_id 9.*\(1, 2\)"),
        (put("annotations", 2, "id", 11), "annotation 11 occurs twice"),
        (put("annotations", 2, "bbox", []), r"annotation 13 has the bbox \[\]"),
        (remove("annotations", 0, "category_id"), "'annotations' has no 'category_id'"),
        (remove("images", 0, "height"), "'images' has no 'height'"),
        (remove("categories", 0, "name"), "'categories' has no 'name'"),
        (lambda content: content.pop("categories"), "no list 'categories'"),
        (lambda content: content.update(categories=[]), "'categories' is empty"),
        (lambda content: content.pop("images"), "no list 'images'"),
    ],
)
def test_fault_in_the_file_is_named(tiny_coco, edit, message):
    tiny_coco(edit)
    with pytest.raises(UserError, match=f"'tiny': .*instances.json: .*{message}"):
        load_dataset("tiny")


def test_json_of_another_kind(tiny_coco):
    directory = tiny_coco()
    (directory / "instances.json").write_text(json.dumps([1, 2]))
    with pytest.raises(UserError, match="not in COCO format"):
        load_dataset("tiny")


def test_empty_dataset(tiny_coco):
    tiny_coco(lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(UserError, match="'tiny': it holds no image"):
        load_dataset("tiny")


def test_missing_panoptic_files_are_named(tiny_coco, forget_datasets):
    def load():
        raise AssertionError("/data/panoptic/000001.png")

    DatasetCatalog.register("panoptic", load)
    with pytest.raises(UserError, match="/data/panoptic/000001.png"):
        load_dataset("panoptic")


def test_mistake_in_a_loading_function_is_shown_as_it_is(tiny_coco, forget_datasets):
    def load():
        return [{}["height"]]

    directory = tiny_coco()
    DatasetCatalog.register("own", load)
    MetadataCatalog.get("own").json_file = str(directory / "instances.json")
    with pytest.raises(KeyError, match="height"):
        load_dataset("own")
