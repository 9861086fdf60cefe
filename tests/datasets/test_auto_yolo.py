import os
import re
import shutil

import numpy as np
import pytest
import yaml
from detectron2.data import MetadataCatalog

from d2detr.datasets import register_auto_dataset
from d2detr.datasets.catalog import load_dataset
from tests.dataset_trees import two_splits, yolo, yolo_darknet, yolo_flat, yolo_roboflow
from tests.datasets.auto_checks import boxes_by_image, refuse, truth

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")


@pytest.fixture(scope="module")
def splits():
    return two_splits(4, 2)


def describe(root, **changes):
    """Writes data.yaml anew, with changes."""
    content = yaml.safe_load((root / "data.yaml").read_text()) | changes
    (root / "data.yaml").write_text(yaml.safe_dump(content))


def labels(root, split, number):
    return sorted((root / "labels" / split).iterdir())[number]


def relabel(root, new_ids):
    """Replaces the class ids in label files."""
    for path in (root / "labels").rglob("*.txt"):
        lines = [line.split(" ", 1) for line in path.read_text().splitlines()]
        path.write_text("".join(f"{new_ids[int(old)]} {rest}\n" for old, rest in lines))


@pytest.mark.parametrize("ids", [[0, 2, 5, 7, 90], [1, 2, 3, 4, 5]])
def test_keys_of_names_are_the_class_ids(tmp_path, splits, ids):
    yolo(tmp_path, splits)
    names = [x["name"] for x in splits["train"][0]["categories"]]
    relabel(tmp_path, ids)
    describe(tmp_path, names=dict(zip(ids, names, strict=True)))
    registered = register_auto_dataset(tmp_path)
    for split, (content, _) in splits.items():
        assert boxes_by_image(registered[split]) == truth(content)


def test_names_are_text_as_written(tmp_path, splits):
    yolo(tmp_path, splits)
    text = (tmp_path / "data.yaml").read_text().split("names:")[0]
    (tmp_path / "data.yaml").write_text(f"{text}names: [yes, no, 1.0, ~, 007]\n")
    name = register_auto_dataset(tmp_path)["train"]
    assert MetadataCatalog.get(name).thing_classes == ["yes", "no", "1.0", "~", "007"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "cat", "dog": "dog"}, "the key 'dog'; keys must be the class ids"),
        ({0: "cat", "00": "dog"}, "the key '00'"),
        ({-1: "cat"}, "the key '-1'"),
        ({0: "cat", 1: ""}, "the name of class 1 in 'names' is ''"),
        (["cat", ["dog"]], "the name of class 1 in 'names' is ['dog']"),
        ("cat dog", "'names' is 'cat dog'; it must list the classes"),
    ],
)
def test_names_that_name_no_classes(tmp_path, splits, names, message):
    yolo(tmp_path, splits)
    describe(tmp_path, names=names)
    refuse(tmp_path, "data.yaml", message)


def test_all_faults_are_counted_and_the_first_of_each_kind_are_shown(tmp_path, splits):
    yolo(tmp_path, splits)
    describe(tmp_path, names={0: "a", 1: "b", 2: "c", 3: "d", 6: "e"})
    for number in range(4):
        file = labels(tmp_path, "train", number)
        file.write_text(f"0 0.5 0.5 0.2 0.2\n5 0.5 0.5 0.2 {number}\n\n6 48 36 20 10\n")
    labels(tmp_path, "val", 0).write_text("0 0.5 0.5 nan 0.1\ncat 0.5 0.5 0.1 0.1\n")
    labels(tmp_path, "val", 1).write_bytes("0 0.5 0.5 0.1 0.1 # ä  ".encode("latin-1"))
    image = sorted((tmp_path / "images" / "val").iterdir())[0]
    image.write_bytes(b"no image")
    message = refuse(
        tmp_path,
        "4 lines with a class id that has no name (0, 1, 2, 3, 6 have): ",
        f"{labels(tmp_path, 'train', 1)}:2 '5 0.5 0.5 0.2 1'",
        "4 lines with coordinates that are pixels",
        f"{labels(tmp_path, 'train', 0)}:4 '6 48 36 20 10'",
        f"1 images whose size cannot be read: {image}",
        f"1 lines with numbers that are not finite: {labels(tmp_path, 'val', 0)}:1",
        f"1 lines that hold something else than numbers: {labels(tmp_path, 'val', 0)}:2",
        f"1 label files that are no text: {labels(tmp_path, 'val', 1)} is not in UTF-8",
    )
    assert str(labels(tmp_path, "train", 3)) not in message


def test_boxes_that_reach_out_a_little_are_left_to_the_checks(tmp_path, splits):
    yolo(tmp_path, splits)
    labels(tmp_path, "train", 0).write_text(
        "0 1.0 0.5 0.5 1.25\n1 0.5 0.5 0 0.1\n2 0.5 0.5 -1 -1\n"
    )
    record = load_dataset(register_auto_dataset(tmp_path)["train"])[0]
    boxes = [x["bbox"] for x in record["annotations"]]
    np.testing.assert_allclose(boxes[0], [72, -9, 48, 90])
    assert (boxes[1][2], boxes[2][2]) == (0, -96)


@pytest.mark.parametrize("changes", [{"val": "images/vla"}, {"train": ["images/train", "more"]}])
def test_places_without_images_are_refused(tmp_path, splits, changes):
    yolo(tmp_path, splits)
    describe(tmp_path, **changes)
    refuse(tmp_path, "data.yaml", "1 places with no image", "vla" if "val" in changes else "more")


@pytest.mark.parametrize("absent", ["val", "test"])
def test_a_split_that_was_not_exported_is_said_to_be_absent(tmp_path, splits, caplog, absent):
    yolo_roboflow(tmp_path, splits)
    if absent == "val":
        shutil.rmtree(tmp_path / "valid")
    else:
        describe(tmp_path, test="../test/images")
    with caplog.at_level("WARNING", logger="d2detr"):
        names = register_auto_dataset(tmp_path)
    place = "../valid/images" if absent == "val" else "../test/images"
    assert f"no image where it says that those for {absent} are, which is {place}" in caplog.text
    assert sorted(names) == ["all", "train", "val"]
    if absent == "val":
        division = MetadataCatalog.get(names["val"]).division
        assert division.startswith("it has no validation split, so 1 of its 4 images were drawn")


def rename_images(root):
    (root / "valid").rename(root / "my_validation")


def empty_images(root):
    shutil.rmtree(root / "valid" / "images")
    (root / "valid" / "images").mkdir()


def name_a_list(root):
    shutil.rmtree(root / "valid")
    describe(root, val="valid.txt")


def lose_training(root):
    shutil.rmtree(root / "train")


@pytest.mark.parametrize("change", [rename_images, empty_images, name_a_list, lose_training])
def test_a_split_that_may_be_somewhere_is_not_replaced_by_others(tmp_path, splits, change):
    yolo_roboflow(tmp_path, splits)
    change(tmp_path)
    refuse(tmp_path, "data.yaml", "1 places with no image")


def test_description_apart_from_its_images(tmp_path, splits):
    yolo(tmp_path / "data", splits)
    (tmp_path / "configs").mkdir()
    shutil.move(tmp_path / "data" / "data.yaml", tmp_path / "configs" / "mine.yaml")
    shutil.copy(tmp_path / "configs" / "mine.yaml", tmp_path / "configs" / "data.yaml")
    describe(tmp_path / "configs", path="../data")
    names = register_auto_dataset(tmp_path / "configs" / "data.yaml")
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert boxes_by_image(names["val"]) == truth(splits["val"][0])


def test_damaged_description(tmp_path, splits):
    yolo(tmp_path, splits)
    (tmp_path / "other.yaml").write_text("a: [unfinished")
    register_auto_dataset(tmp_path)
    text = (tmp_path / "data.yaml").read_text()
    (tmp_path / "data.yaml").write_text(text + "nc: [")
    refuse(tmp_path, "data.yaml is not valid YAML", "line 10")
    (tmp_path / "data.yaml").write_text(text + "# ä", encoding="utf-16")
    refuse(tmp_path, "data.yaml is in UTF-16", "iconv")
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8-sig")
    register_auto_dataset(tmp_path)


# ------------------------------------------------------------------------------------------------
# Lists of classes in place of a data.yaml
# ------------------------------------------------------------------------------------------------


def test_flat_folder_with_a_list_of_classes(tmp_path, splits):
    content, pixels = splits["train"]
    yolo_flat(tmp_path, content, pixels)
    assert boxes_by_image(register_auto_dataset(tmp_path)["all"]) == truth(content)


def test_lists_that_differ(tmp_path, splits):
    yolo_darknet(tmp_path, splits)
    (tmp_path / "valid" / "_darknet.labels").write_text("star\n")
    refuse(tmp_path, os.path.join("valid", "_darknet.labels"), "list other classes")


@pytest.mark.parametrize("write", [yolo, yolo_darknet])
def test_refusal_without_class_names_shows_the_description_that_works(tmp_path, splits, write):
    write(tmp_path, splits)
    for path in (*tmp_path.rglob("data.yaml"), *tmp_path.rglob("_darknet.labels")):
        path.unlink()
    message = refuse(tmp_path, "nothing names their classes", f"Write {tmp_path}/data.yaml")
    description = message[message.index("\ntrain:") :]
    for category in splits["train"][0]["categories"]:
        class_id, name = category["id"] - 1, category["name"]
        description = description.replace(f"{class_id}: NAME", f"{class_id}: {name}")
    (tmp_path / "data.yaml").write_text(description)
    names = register_auto_dataset(tmp_path)
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert boxes_by_image(names["val"]) == truth(splits["val"][0])


def test_captions_are_not_taken_for_labels(tmp_path, splits):
    yolo_flat(tmp_path, *splits["train"])
    (tmp_path / "classes.txt").unlink()
    for path in tmp_path.glob("*.txt"):
        path.write_text("a cat on a table")
    assert "data.yaml with" not in refuse(tmp_path, "no dataset that is recognised")


# ------------------------------------------------------------------------------------------------
# Images that are shared, and images without labels
# ------------------------------------------------------------------------------------------------


def share_images(root, splits):
    """One folder with all images, to which each split has a link; labels tell which are whose."""
    yolo(root, splits)
    pool = root / "pool"
    pool.mkdir()
    for split in splits:
        for image in (root / "images" / split).iterdir():
            shutil.move(image, pool)
        (root / "images" / split).rmdir()
        (root / "images" / split).symlink_to(pool)


def test_splits_share_images_through_links(tmp_path, splits, caplog):
    share_images(tmp_path, splits)
    describe(tmp_path, skip_if_label_file_missing=True)
    with caplog.at_level("INFO", logger="d2detr"):
        names = register_auto_dataset(tmp_path)
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert boxes_by_image(names["val"]) == truth(splits["val"][0])
    assert re.search("data.yaml: 4 images without a label file are left out", caplog.text)


def test_images_without_a_label_file_show_no_object_otherwise(tmp_path, splits):
    share_images(tmp_path, splits)
    boxes = boxes_by_image(register_auto_dataset(tmp_path)["train"])
    assert boxes == truth(splits["train"][0]) | dict.fromkeys(truth(splits["val"][0]), [])


def test_labels_may_lie_beside_what_a_link_leads_to(tmp_path, splits):
    yolo(tmp_path / "real", splits)
    for split in splits:
        (tmp_path / "mine" / split).mkdir(parents=True)
        for image in (tmp_path / "real" / "images" / split).iterdir():
            (tmp_path / "mine" / split / image.name).symlink_to(image)
    shutil.copy(tmp_path / "real" / "data.yaml", tmp_path / "mine")
    describe(tmp_path / "mine", train="train", val="val")
    names = register_auto_dataset(tmp_path / "mine")
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])


def test_links_that_lead_in_circles(tmp_path, splits):
    yolo(tmp_path, splits)
    (tmp_path / "images" / "up").symlink_to(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "again.yaml").symlink_to(tmp_path / "data.yaml")
    names = register_auto_dataset(tmp_path / "data.yaml")
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
