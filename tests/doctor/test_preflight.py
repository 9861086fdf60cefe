import logging
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2detr.doctor import check_datasets
from d2detr.errors import UserError


@pytest.fixture
def train_on(cfg):
    def use(*names):
        cfg.DATASETS.TRAIN = names
        return cfg

    return use


def record(*annotations, **values):
    return {
        "file_name": "x.jpg",
        "height": 30,
        "width": 40,
        "annotations": [*annotations],
        **values,
    }


def annotation(box=(1, 2, 11, 12), label=0, mode=BoxMode.XYXY_ABS, **values):
    return {"bbox": box, "bbox_mode": mode, "category_id": label, **values}


def test_sound_dataset_passes_and_is_summarised(train_on, tiny_coco, caplog):
    tiny_coco()
    with caplog.at_level(logging.INFO, logger="d2detr"):
        check_datasets(train_on("tiny"))
    assert "tiny: 2 images (0 without objects), 3 annotations" in caplog.text
    assert not any(line.levelno >= logging.WARNING for line in caplog.records)


@pytest.fixture
def check_records(train_on, tmp_path, monkeypatch, forget_datasets):
    """Checks a training on records of x.jpg, a 40 x 30 image, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("x.jpg")

    def check(*records, num_classes=1, masks=False):
        DatasetCatalog.register("mine", lambda: [*records])
        MetadataCatalog.get("mine").set(thing_classes=["a", "b"][:num_classes])
        cfg = train_on("mine")
        cfg.DATASETS.TEST = ()
        cfg.MODEL.MASK_ON = masks
        check_datasets(cfg)

    return check


def test_counts_what_training_leaves_out(check_records, caplog):
    with caplog.at_level(logging.INFO, logger="d2detr"):
        check_records(
            record(
                annotation(),
                annotation((-5, 0, 60, 10), iscrowd=1),
                annotation((5, 5, 0, 9), mode=BoxMode.XYWH_ABS),
                annotation((41, 5, 50, 9)),
                annotation((-3, 0, 10, 10)),
                annotation((30, 20, 10.9, 10.9), mode=BoxMode.XYWH_ABS),
            ),
            record(),
            record(annotation((5, 5, 5, 9), iscrowd=1)),
        )
    assert "3 images (2 without objects), 7 annotations" in caplog.text
    assert "2 crowd regions, 2 boxes without area; 1 boxes reach beyond" in caplog.text


@pytest.mark.parametrize("label", [-1, 2, None])
def test_category_id_out_of_range_is_located(check_records, label):
    records = [record(annotation()), record(annotation(), annotation(label=label, id=77))]
    with pytest.raises(UserError, match=r"2 classes, .* \[0, 1\].*annotation 77 of image x.jpg"):
        check_records(*records, num_classes=2)


@pytest.mark.parametrize("key", ["bbox", "bbox_mode", "category_id"])
def test_annotation_that_lacks_a_key(check_records, key):
    broken = annotation(id=6)
    del broken[key]
    with pytest.raises(UserError, match=f"annotation 6 of image x.jpg has no '{key}'"):
        check_records(record(annotation(), broken))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (None, "image number 2 is null"),
        ({"annotations": []}, "image number 2 has no 'file_name'"),
        (record(annotations=None), "image number 2 has null as its 'annotations'"),
        (record(None), "annotation number 2 of image x.jpg is null"),
    ],
)
def test_records_that_are_none(check_records, broken, message):
    with pytest.raises(UserError, match=message):
        check_records(record(annotation()), broken)


@pytest.mark.parametrize(
    ("level", "opened", "words"),
    [
        ("full", 2, "tiny: 2 images"),
        ("annotations", 0, "Not looked at: image files"),
        ("off", 0, "PREFLIGHT is off: annotations and images were not looked at"),
    ],
)
def test_less_is_looked_at_where_that_is_wanted(
    train_on, tiny_coco, caplog, monkeypatch, level, opened, words
):
    directory = tiny_coco()
    cfg = train_on("tiny")
    cfg.DATASETS.PREFLIGHT = level
    files = []
    real = Image.open
    monkeypatch.setattr("PIL.Image.open", lambda file: files.append(file) or real(file))
    with caplog.at_level(logging.INFO, logger="d2detr"):
        check_datasets(cfg)
    assert len(files) == opened
    assert words in caplog.text
    os.remove(directory / "b.jpg")
    if opened:
        with pytest.raises(UserError, match="files of images do not exist"):
            check_datasets(cfg)
    else:
        check_datasets(cfg)


def test_annotations_are_checked_without_images(train_on, tiny_coco):
    tiny_coco(lambda content: content["annotations"][1].update(iscrowd="0"))
    cfg = train_on("tiny")
    cfg.DATASETS.PREFLIGHT = "annotations"
    with pytest.raises(UserError, match=r"(?s)annotation 12 .*check_dataset.py .*instances.json"):
        check_datasets(cfg)


def test_progress_is_logged(train_on, tiny_coco, monkeypatch, caplog):
    tiny_coco()
    monkeypatch.setattr("d2detr.progress.SECONDS_BETWEEN_LINES", 0)
    with caplog.at_level(logging.INFO, logger="d2detr"):
        check_datasets(train_on("tiny"))
    assert "Checking tiny: 1 of 2 image files" in caplog.text


def test_level_must_be_known(train_on):
    cfg = train_on("tiny")
    cfg.DATASETS.PREFLIGHT = "fast"
    with pytest.raises(UserError, match="'fast'; it must be one of full, annotations, off"):
        check_datasets(cfg)


BITMAP = np.pad(np.ones((10, 10), dtype=np.uint8), ((2, 18), (1, 29)))


@pytest.mark.parametrize("bitmap", [BITMAP, BITMAP.astype(bool), torch.from_numpy(BITMAP)])
def test_bitmaps_are_masks(check_records, bitmap, caplog):
    with caplog.at_level(logging.WARNING, "d2detr.doctor.preflight"):
        check_records(record(annotation(segmentation=bitmap)), masks=True)
    assert "masks" not in caplog.text


@pytest.mark.parametrize(
    "segmentation",
    [
        BITMAP[:, 1:],
        {"size": [30, 39], "counts": [30 * 39]},
        {"size": [30, 40], "counts": [30 * 40, 1]},
        {"size": [0, 0], "counts": "0"},
        {"counts": [30 * 40]},
        [[1, 2, 11, 12]],
        [[1, 2, 11, 2, 11, 12, 1]],
        [[1, 2, 11, np.nan, 11, 12]],
        "polygon",
    ],
)
def test_unusable_masks_stop_mask_training(check_records, segmentation):
    with pytest.raises(UserError, match="'mine': 1 masks are neither polygons.*x.jpg"):
        check_records(record(annotation(segmentation=segmentation)), masks=True)


@pytest.mark.parametrize("segmentation", [None, []])
def test_empty_masks_stop_mask_training(check_records, segmentation):
    records = [record(annotation(segmentation=segmentation), annotation(iscrowd=1))]
    with pytest.raises(UserError, match="1 annotations have no 'segmentation', which MODEL.MASK"):
        check_records(*records, masks=True)


def test_no_training_dataset(train_on):
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        check_datasets(train_on())


def test_dataset_without_boxes(train_on, tiny_coco, forget_datasets):
    directory = tiny_coco()
    files = [str(directory / "a.jpg")]
    DatasetCatalog.register("pictures", lambda: [{"file_name": name} for name in files])
    cfg = train_on("pictures")
    cfg.MODEL.DETR.NUM_CLASSES = 2
    with pytest.raises(UserError, match="'pictures': 1 images hold no object to train on"):
        check_datasets(cfg)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tiny",), ("pictures",)
    check_datasets(cfg)


def test_number_of_classes_is_checked(train_on, tiny_coco):
    tiny_coco()
    cfg = train_on("tiny")
    cfg.MODEL.DETR.NUM_CLASSES = 91
    with pytest.raises(UserError, match="91 .* 2"):
        check_datasets(cfg)


def test_unregistered_test_dataset_is_an_error(train_on, tiny_coco):
    tiny_coco()
    cfg = train_on("tiny")
    cfg.DATASETS.TEST = ("tinny",)
    with pytest.raises(UserError, match="'tinny' is not registered. Did you mean tiny"):
        check_datasets(cfg)


@pytest.mark.parametrize("split", ["TRAIN", "TEST"])
def test_images_of_every_dataset_are_checked(cfg, tiny_coco, split):
    tiny_coco(name="sound")
    directory = tiny_coco(name="broken")
    os.truncate(directory / "b.jpg", 300)
    cfg.DATASETS.TRAIN = ("sound",)
    cfg.DATASETS[split] = ("sound", "broken")
    with pytest.raises(UserError, match=r"'broken': 1 files of images cannot be read.*b\.jpg"):
        check_datasets(cfg)
    os.remove(directory / "b.jpg")
    with pytest.raises(UserError, match=r"'broken': 1 files of images do not exist.*b\.jpg"):
        check_datasets(cfg)


def test_evaluation_does_not_read_the_training_datasets(train_on, tiny_coco, caplog):
    tiny_coco()
    cfg = train_on("coco_2014_train")
    cfg.MODEL.DETR.NUM_CLASSES = 2
    with pytest.raises(UserError, match="DATASETS.TEST is empty"):
        check_datasets(cfg, is_train=False)
    cfg.DATASETS.TEST = ("tiny",)
    cfg.MODEL.MASK_ON = True
    check_datasets(cfg, is_train=False)
    cfg.MODEL.DETR.NUM_CLASSES = 3
    with pytest.raises(UserError, match="3 .* 2"):
        check_datasets(cfg, is_train=False)
