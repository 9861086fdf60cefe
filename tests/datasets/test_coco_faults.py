import json
from functools import partial

import pytest
from detectron2.data import MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from d2detr.datasets import register_auto_dataset
from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.coco_faults import find_structure_fault
from d2detr.errors import UserError

VALUES = [None, "1", -1, True, float("nan"), 10**400, [], [1], {"a": 1}, [None], [[1]]]
KEYS = {
    "categories": ["id", "name", "supercategory"],
    "images": ["id", "file_name", "width", "height"],
    "annotations": [
        "id",
        "image_id",
        "category_id",
        "bbox",
        "area",
        "iscrowd",
        "segmentation",
        "keypoints",
    ],
}
PLACES = [(section, key) for section, keys in KEYS.items() for key in (*keys, None)]


def damaged(content, section, key, value):
    content = json.loads(json.dumps(content))
    entries = content[section]
    entries[0] = value if key is None else {**entries[0], key: value}
    return content


@pytest.mark.parametrize(("section", "key"), PLACES)
def test_any_value_is_passed_on_or_refused_in_a_sentence(
    tiny_coco, own_cache, forget_datasets, section, key
):
    contents = []
    folder = tiny_coco(contents.append)
    json_file = folder / "instances.json"
    for number, value in enumerate(VALUES):
        json_file.write_text(json.dumps(damaged(contents[0], section, key, value)))
        register_coco_instances(f"tiny_{number}", {}, str(json_file), str(folder))
        for load in (
            lambda name=f"tiny_{number}": load_dataset(name),
            lambda: load_dataset(register_auto_dataset(folder)["all"]),
        ):
            try:
                load()
            except UserError as error:
                assert "instances.json: " in str(error) or "class" in str(error)


def test_all_entries_that_cannot_be_read_are_listed(tiny_coco, own_cache, forget_datasets):
    def edit(content):
        content["annotations"][0] = None
        del content["annotations"][1]["bbox"]
        content["annotations"] += 12 * [None]

    folder = tiny_coco(edit)
    load_auto = partial(register_auto_dataset, folder)
    for load in (load_auto, partial(load_dataset, "tiny")):
        with pytest.raises(UserError) as refused:
            load()
        for text in ("entry 1 of 'annotations' is null", "entry 2 of 'annotations' has no 'bbox'"):
            assert text in str(refused.value)
        assert "and 4 more faults" in str(refused.value)


def test_readers_repair_nothing(tiny_coco, own_cache, forget_datasets):
    def edit(content):
        content["categories"][0]["name"] = None
        content["categories"][1]["name"] = 7
        content["images"][0].update(width="40", height=None)
        content["annotations"][0].update(bbox=["2", "3", "10", "12"], iscrowd="0")
        content["annotations"][1].update(bbox=[1, 2, 10**400, 3], area=None)
        content["images"].append({**content["images"][1]})

    folder = tiny_coco(edit)
    written = json.loads((folder / "instances.json").read_text())
    assert find_structure_fault(written) is None
    name = register_auto_dataset(folder)["all"]
    with open(MetadataCatalog.get(name).json_file) as file:
        content = json.load(file)
    assert [x["name"] for x in content["categories"]] == [None, 7]
    assert len(content["images"]) == 3
    records = load_dataset(name)
    assert (records[0]["width"], records[0]["height"]) == ("40", None)
    first, second = records[0]["annotations"]
    assert (first["bbox"], first["iscrowd"]) == (["2", "3", "10", "12"], "0")
    assert second["bbox"][2] == 10**400


def test_byte_order_mark_of_a_registered_file(tiny_coco):
    folder = tiny_coco()
    text = (folder / "instances.json").read_text()
    (folder / "instances.json").write_text(text, encoding="utf-8-sig")
    with pytest.raises(UserError, match="instances.json begins with a byte order mark"):
        load_dataset("tiny")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_encoding_of_a_registered_file(tiny_coco, encoding):
    folder = tiny_coco()
    text = (folder / "instances.json").read_text().replace("cat", "ä")
    (folder / "instances.json").write_bytes(text.replace("{", "{ ", 1).encode(encoding))
    name = encoding.upper() if encoding != "latin-1" else "Latin-1"
    with pytest.raises(UserError, match=f"instances.json .* in {name}.* iconv -f"):
        load_dataset("tiny")


def test_file_that_ends_within_a_character(tiny_coco):
    folder = tiny_coco()
    (folder / "instances.json").write_bytes('{"images": "ä'.encode()[:-1])
    with pytest.raises(UserError, match="instances.json is truncated"):
        load_dataset("tiny")
