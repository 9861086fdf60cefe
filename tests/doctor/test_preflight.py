import logging
import os

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image

from d2detr.doctor import check_annotations, check_datasets
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


def test_counts_what_training_leaves_out():
    dataset = [
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
    ]
    counts = check_annotations("mine", dataset, num_classes=1)
    assert (counts.images, counts.empty_images, counts.annotations) == (3, 2, 7)
    assert (counts.crowds, counts.degenerate, counts.outside) == (2, 2, 1)
    assert counts.objects_per_image.tolist() == [3, 0, 0]
    assert "3 images (2 without objects), 7 annotations" in str(counts)
    assert "2 crowd regions, 2 boxes without area; 1 boxes reach beyond" in str(counts)


def test_dataset_without_any_annotation_is_counted():
    counts = check_annotations("mine", [record(), {"file_name": "y.jpg"}], num_classes=1)
    assert (counts.images, counts.empty_images, counts.annotations) == (2, 2, 0)


@pytest.mark.parametrize("label", [-1, 2])
def test_category_id_out_of_range_is_located(label):
    dataset = [record(annotation()), record(annotation(), annotation(label=label, id=77))]
    with pytest.raises(UserError, match=r"annotation 77 of image x.jpg .*\[0, 1\]"):
        check_annotations("mine", dataset, num_classes=2)


def test_annotation_without_id_is_found_in_the_file(tiny_coco):
    tiny_coco()
    dataset = DatasetCatalog.get("tiny")
    dataset[0]["annotations"][1]["category_id"] = 5
    with pytest.raises(UserError, match=r"'tiny': annotation 12 of .*instances.json .*a\.jpg"):
        check_annotations("tiny", dataset, num_classes=2)


def test_annotation_without_id_or_file_is_numbered():
    with pytest.raises(UserError, match="annotation number 2 of image x.jpg"):
        check_annotations("mine", [record(annotation(), annotation(label=9))], num_classes=2)


def test_box_that_is_not_finite():
    dataset = [record(annotation((0, 0, np.nan, 5), id=4), annotation((0, 0, np.inf, 5), id=5))]
    with pytest.raises(UserError, match="annotation 4 .*not finite.*2 annotations"):
        check_annotations("mine", dataset, num_classes=1)


@pytest.mark.parametrize("key", ["bbox", "bbox_mode", "category_id"])
def test_annotation_that_lacks_a_key(key):
    broken = annotation(id=6)
    del broken[key]
    with pytest.raises(UserError, match=f"annotation 6 .*has no '{key}'"):
        check_annotations("mine", [record(annotation(), broken)], num_classes=1)


def test_masks_are_demanded_only_if_needed():
    dataset = [record(annotation(id=8), annotation(iscrowd=1))]
    check_annotations("mine", dataset, num_classes=1)
    with pytest.raises(UserError, match="annotation 8 .*has no 'segmentation'"):
        check_annotations("mine", dataset, num_classes=1, needs_masks=True)


BITMAP = np.pad(np.ones((10, 10), dtype=np.uint8), ((2, 18), (1, 29)))


@pytest.mark.parametrize("bitmap", [BITMAP, BITMAP.astype(bool), torch.from_numpy(BITMAP)])
def test_bitmaps_are_masks(mask_training, bitmap, caplog):
    with caplog.at_level(logging.WARNING, "d2detr.doctor.preflight"):
        mask_training(bitmap)
    assert "masks" not in caplog.text


@pytest.mark.parametrize(
    "segmentation",
    [
        BITMAP[:, 1:],
        {"size": [30, 39], "counts": [30 * 39]},
        {"counts": [30 * 40]},
        [[1, 2, 11, 12]],
        [[1, 2, 11, 2, 11, 12, 1]],
        [[1, 2, 11, np.nan, 11, 12]],
        "polygon",
    ],
)
def test_unusable_masks_stop_mask_training(mask_training, segmentation):
    with pytest.raises(UserError, match="'masks': 1 masks are neither polygons.*x.jpg"):
        mask_training(segmentation)


@pytest.mark.parametrize("segmentation", [None, []])
def test_empty_masks_stop_mask_training(mask_training, segmentation):
    with pytest.raises(UserError, match="number 1 .*has no 'segmentation', which MODEL.MASK_ON"):
        mask_training(segmentation)


@pytest.fixture
def mask_training(train_on, tmp_path, monkeypatch, forget_datasets):
    """Checks a training on one image with one object of a given mask."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30)).save("x.jpg")

    def check(segmentation):
        DatasetCatalog.register(
            "masks", lambda: [record(annotation(segmentation=segmentation), image_id=1)]
        )
        MetadataCatalog.get("masks").set(thing_classes=["a"])
        cfg = train_on("masks")
        cfg.DATASETS.TEST = ()
        cfg.MODEL.DETR.NUM_CLASSES = 1
        cfg.MODEL.MASK_ON = True
        check_datasets(cfg)

    return check


def test_mask_training_demands_masks(train_on, tiny_coco):
    tiny_coco()
    cfg = train_on("tiny")
    cfg.MODEL.MASK_ON = True
    with pytest.raises(UserError, match="annotation 11 .*has no 'segmentation'"):
        check_datasets(cfg)


def test_more_objects_than_queries_is_a_warning(train_on, tiny_coco, caplog):
    tiny_coco()
    cfg = train_on("tiny")
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 1
    check_datasets(cfg)
    (warning,) = [line for line in caplog.records if line.levelno == logging.WARNING]
    assert "1 images have more than 1 objects (at most 2)" in warning.message


def test_no_training_dataset(train_on):
    with pytest.raises(UserError, match="DATASETS.TRAIN is empty"):
        check_datasets(train_on())


def test_dataset_without_boxes(train_on, tiny_coco, forget_datasets):
    directory = tiny_coco()
    files = [str(directory / "a.jpg")]
    DatasetCatalog.register("pictures", lambda: [{"file_name": name} for name in files])
    cfg = train_on("pictures")
    cfg.MODEL.DETR.NUM_CLASSES = 2
    with pytest.raises(UserError, match="'pictures' has no boxes"):
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
    with pytest.raises(UserError, match=r"'broken': 1 of its 2 .*b\.jpg"):
        check_datasets(cfg)
    os.remove(directory / "b.jpg")
    with pytest.raises(UserError, match=r"'broken' lacks 1 of its 2 .*b\.jpg"):
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
