import json
import os
import shutil

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from d2detr.datasets import register_auto_dataset, resolve_num_classes
from d2detr.datasets.catalog import load_dataset
from d2detr.doctor import check_datasets
from d2detr.errors import UserError
from tests.dataset_trees import FORMATS, coco, draw, two_splits, voc, write_json, yolo
from tests.datasets.auto_checks import boxes_by_image, refuse, truth

pytestmark = pytest.mark.usefixtures("forget_datasets", "own_cache")


@pytest.fixture(scope="module")
def splits():
    return two_splits()


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_every_format_gives_the_same_boxes_and_classes(tmp_path, splits, write):
    write(tmp_path, splits)
    names = register_auto_dataset(tmp_path)
    assert names["train"] == f"auto:{tmp_path}:train"
    for split, (content, _) in splits.items():
        assert boxes_by_image(names[split]) == truth(content)
        metadata = MetadataCatalog.get(names[split])
        assert sorted(metadata.thing_classes) == ["circle", "cross", "square", "star", "triangle"]
        assert metadata.evaluator_type == "coco"
        assert os.path.isfile(metadata.json_file)
    for record in load_dataset(names["train"]):
        with Image.open(record["file_name"]) as image:
            assert image.size == (record["width"], record["height"])


@pytest.mark.parametrize("write", FORMATS.values(), ids=FORMATS)
def test_one_split_is_divided_the_same_way_every_time(tmp_path, own_cache, splits, write, caplog):
    write(tmp_path, {"train": splits["train"]})
    with caplog.at_level("INFO", logger="d2detr"):
        names = register_auto_dataset(tmp_path)
    assert "2 of its 10 images were drawn for validation (seed 0)" in caplog.text
    train, val = boxes_by_image(names["train"]), boxes_by_image(names["val"])
    assert (len(train), len(val)) == (8, 2)
    assert train | val == truth(splits["train"][0]) == boxes_by_image(names["all"])
    shutil.rmtree(own_cache)
    assert boxes_by_image(register_auto_dataset(tmp_path)["val"]) == val


def test_a_class_is_never_held_out_entirely(tmp_path, splits):
    content = {**splits["train"][0], "annotations": []}
    for image in content["images"]:  # every image has a class of its own but two
        label = min(image["id"], 9)
        content["annotations"].append(
            {"id": image["id"], "image_id": image["id"], "category_id": label, "bbox": [1, 1, 5, 5]}
        )
    content["categories"] = [{"id": i, "name": f"class {i}"} for i in range(1, 10)]
    coco(tmp_path, {"train": (content, splits["train"][1])})
    names = register_auto_dataset(tmp_path)
    assert len(load_dataset(names["val"])) == 1
    assert len({x["annotations"][0]["category_id"] for x in load_dataset(names["train"])}) == 9


def test_names_work_in_configs_without_registration(tmp_path, splits, cfg):
    yolo(tmp_path, splits)
    cfg.DATASETS.TRAIN = (f"auto:{tmp_path}:train",)
    cfg.DATASETS.TEST = (f"auto:{tmp_path}:val",)
    check_datasets(cfg)
    assert resolve_num_classes(cfg) == 5


def test_image_ids_that_are_words_are_numbered(tmp_path, splits):
    content, pixels = json.loads(json.dumps(splits["train"][0])), splits["train"][1]
    for image in content["images"]:
        image["id"] = f"image {image['id']}"
    for annotation in content["annotations"]:
        annotation["image_id"] = f"image {annotation['image_id']}"
    coco(tmp_path, {**splits, "train": (content, pixels)})
    names = register_auto_dataset(tmp_path)
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert {x["image_id"] for x in load_dataset(names["train"])} == set(range(1, 11))


def ids_as_words(content):
    images = [{**image, "id": f"{image['id']:03d}"} for image in content["images"]]
    return {**content, "images": images}


@pytest.mark.parametrize("change", [dict, ids_as_words])
def test_annotations_of_no_image_do_not_become_those_of_another(tmp_path, splits, change):
    lost = [{**x, "image_id": 5} for x in splits["val"][0]["annotations"]]
    val = change({**splits["val"][0], "annotations": lost})
    coco(tmp_path, {"train": splits["train"], "val": (val, splits["val"][1])})
    names = register_auto_dataset(tmp_path)
    assert not any(boxes_by_image(names["val"]).values())
    assert {x: y for x, y in boxes_by_image(names["all"]).items() if y} == truth(splits["train"][0])


def test_relative_path(tmp_path, splits, monkeypatch):
    coco(tmp_path / "mine", splits)
    monkeypatch.chdir(tmp_path)
    assert len(load_dataset("auto:mine:val")) == 3
    assert MetadataCatalog.get("auto:mine:val").thing_classes[3] == "star"


def test_validation_from_another_folder_gets_the_classes_of_training(tmp_path, splits):
    coco(tmp_path / "a", {"train": splits["train"]})
    content, pixels = draw(3, seed=2)
    content["categories"] = [{**x, "id": 60 - x["id"]} for x in content["categories"]]
    for annotation in content["annotations"]:
        annotation["category_id"] = 60 - annotation["category_id"]
    coco(tmp_path / "b", {"train": (content, pixels)})
    names = register_auto_dataset(tmp_path / "a", tmp_path / "b")
    assert boxes_by_image(names["train"]) == truth(splits["train"][0])
    assert boxes_by_image(names["val"]) == truth(splits["val"][0])
    DatasetCatalog.remove(names["val"])
    assert len(load_dataset(names["val"])) == 3


def test_conversion_is_made_again_when_a_file_changes(tmp_path, splits):
    yolo(tmp_path, splits)
    names = register_auto_dataset(tmp_path)
    before = boxes_by_image(names["train"])
    label_file = tmp_path / "labels" / "train" / "img_1_000.txt"
    label_file.write_text("2 0.5 0.5 0.25 0.5\n")
    after = boxes_by_image(register_auto_dataset(tmp_path)["train"])
    assert after["img_1_000.jpg"] == [("triangle", 36.0, 18.0, 24.0, 36.0)]
    assert {k: v for k, v in after.items() if k != "img_1_000.jpg"} == {
        k: v for k, v in before.items() if k != "img_1_000.jpg"
    }


def test_yolo_polygons_and_rotated_images(tmp_path, splits):
    yolo(tmp_path, splits)
    (tmp_path / "labels" / "train" / "img_1_000.txt").write_text("1 0.25 0.5 0.75 0.5 0.5 1.0\n")
    exif = Image.Exif()
    exif[274] = 6  # lies on its side
    with Image.open(tmp_path / "images" / "train" / "img_1_000.jpg") as image:
        image.save(tmp_path / "images" / "train" / "img_1_000.jpg", exif=exif)
    record = next(
        x
        for x in load_dataset(register_auto_dataset(tmp_path)["train"])
        if x["file_name"].endswith("img_1_000.jpg")
    )
    (annotation,) = record["annotations"]
    assert (record["width"], record["height"]) == (72, 96)
    assert annotation["segmentation"] == [[18.0, 48.0, 54.0, 48.0, 36.0, 96.0]]
    assert annotation["bbox"] == [18.0, 48.0, 36.0, 48.0]


def test_supervision_reads_the_same(tmp_path, splits):
    supervision = pytest.importorskip("supervision")
    voc(tmp_path / "voc", {"train": splits["train"]})
    yolo(tmp_path / "yolo", {"train": splits["train"]})
    loaded = {
        "voc": supervision.DetectionDataset.from_pascal_voc(
            str(tmp_path / "voc" / "JPEGImages"), str(tmp_path / "voc" / "Annotations")
        ),
        "yolo": supervision.DetectionDataset.from_yolo(
            str(tmp_path / "yolo" / "images" / "train"),
            str(tmp_path / "yolo" / "labels" / "train"),
            str(tmp_path / "yolo" / "data.yaml"),
        ),
    }
    for folder, dataset in loaded.items():
        ours = boxes_by_image(register_auto_dataset(tmp_path / folder)["all"])
        assert len(dataset) == len(ours)
        for path, detections in dataset.annotations.items():
            rows = zip(detections.class_id, detections.xyxy.tolist(), strict=True)
            theirs = sorted(
                (dataset.classes[label], x0, y0, x1 - x0, y1 - y0)
                for label, (x0, y0, x1, y1) in rows
            )
            found = ours[os.path.basename(path)]
            assert [x[0] for x in theirs] == [x[0] for x in found]
            np.testing.assert_allclose([x[1:] for x in theirs], [x[1:] for x in found], atol=1e-4)


# ------------------------------------------------------------------------------------------------
# What cannot be used gets one clear message
# ------------------------------------------------------------------------------------------------


def test_path_that_does_not_exist(tmp_path):
    (tmp_path / "dogs").mkdir()
    refuse(tmp_path / "cats" / "train", "does not exist", f"{tmp_path}, which holds dogs")


def test_folder_without_a_dataset(tmp_path, splits):
    coco(tmp_path, splits)
    shutil.rmtree(tmp_path / "annotations")
    refuse(tmp_path, "COCO JSON", "Pascal VOC", "YOLO", "13 .jpg")
    write_json(tmp_path / "captions.json", {"images": [], "annotations": [{"caption": "a"}]})
    refuse(tmp_path, "no dataset that is recognised")


def test_yolo_labels_without_class_names(tmp_path, splits):
    yolo(tmp_path, splits)
    (tmp_path / "data.yaml").unlink()
    refuse(tmp_path, "nothing names their classes", "data.yaml")


def test_two_datasets_in_one_folder(tmp_path, splits):
    coco(tmp_path, splits)
    voc(tmp_path, splits)
    refuse(tmp_path, "more than one dataset", "instances_train2017.json", "Annotations")
    register_auto_dataset(tmp_path / "annotations" / "instances_train2017.json")


def test_two_files_for_the_same_split(tmp_path, splits):
    coco(tmp_path, splits)
    write_json(tmp_path / "annotations" / "train_fixed.json", splits["train"][0])
    refuse(tmp_path, "more than one dataset", "train_fixed.json")


def test_class_in_validation_only(tmp_path, splits):
    content, pixels = splits["val"]
    renamed = [{**x, "name": x["name"].replace("star", "Star")} for x in content["categories"]]
    coco(tmp_path, {**splits, "val": ({**content, "categories": renamed}, pixels)})
    refuse(tmp_path, "val split has classes that training does not: 'Star' (", "'star'")


@pytest.mark.parametrize("text", ["", '{"images": [{"id"'])
def test_truncated_json(tmp_path, splits, text):
    coco(tmp_path, splits)
    (tmp_path / "annotations" / "instances_train2017.json").write_text(text)
    refuse(tmp_path, "instances_train2017.json is not valid JSON, or truncated")


def test_json_that_lacks_a_key(tmp_path, splits):
    content = json.loads(json.dumps(splits["train"][0]))
    del content["images"][2]["file_name"]
    coco(tmp_path, {"val": splits["val"]})
    write_json(tmp_path / "annotations" / "train.json", content)
    refuse(tmp_path, "train.json: entry 3 of 'images' has no 'file_name'")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("xmin>", "left>", "has no <bndbox/xmin>"),
        ("</width>", "px</width>", "is '96px', which is not a number"),
        ("</annotation>", "", "is not valid XML, or truncated"),
    ],
)
def test_broken_xml(tmp_path, splits, old, new, message):
    voc(tmp_path, splits)
    path = tmp_path / "Annotations" / "img_1_004.xml"
    path.write_text(path.read_text().replace(old, new))
    refuse(tmp_path, "img_1_004.xml", message)


@pytest.mark.parametrize("line", ["0 0.5 0.5 0.1", "cat 0.5 0.5 0.1 0.1", "0.5 0.5 0.5 0.1 0.1"])
def test_broken_label(tmp_path, splits, line):
    yolo(tmp_path, splits)
    (tmp_path / "labels" / "val" / "img_2_001.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    refuse(tmp_path, "img_2_001.txt:2", line)


def test_yolo_without_any_label(tmp_path, splits):
    yolo(tmp_path, splits)
    shutil.rmtree(tmp_path / "labels")
    refuse(tmp_path, "none of its 10 images has a label file", os.path.join("labels", "train"))


def test_yaml_that_points_nowhere(tmp_path, splits):
    yolo(tmp_path, splits)
    shutil.rmtree(tmp_path / "images")
    refuse(tmp_path, "1 places with no image", "train: images/train")


@pytest.mark.parametrize("name", ["auto:", "auto:data", "auto:data:training", "auto::val"])
def test_malformed_name(name):
    with pytest.raises(UserError, match="must be auto:PATH:SPLIT"):
        load_dataset(name)


def test_split_that_is_not_there(tmp_path, splits):
    coco(tmp_path, splits)
    with pytest.raises(UserError, match="has no test split; it has train, val, all"):
        load_dataset(f"auto:{tmp_path}:test")
