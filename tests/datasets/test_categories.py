import pytest
from detectron2.data import DatasetCatalog

from d2detr.datasets import check_num_classes, resolve_num_classes
from d2detr.datasets.categories import categories_of
from d2detr.errors import UserError


def add_class(content):
    content["categories"].append({"id": 3, "name": "bird"})


def test_zero_takes_the_number_of_the_first_training_dataset(cfg, tiny_coco):
    tiny_coco(name="two")
    tiny_coco(add_class, name="three")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("three",), ("two",)
    assert resolve_num_classes(cfg) == 3
    cfg.DATASETS.TRAIN = ()
    assert resolve_num_classes(cfg) == 2


def test_explicit_number_wins_without_looking_at_datasets(cfg):
    cfg.MODEL.DETR.NUM_CLASSES = 91
    cfg.DATASETS.TRAIN = ("not_registered",)
    assert resolve_num_classes(cfg) == 91


def test_embedded_and_builtin_datasets_are_not_loaded_to_count(cfg):
    cfg.DATASETS.TRAIN = ("shapes_train",)
    assert resolve_num_classes(cfg) == 5
    cfg.DATASETS.TRAIN = ("coco_2017_train",)
    assert resolve_num_classes(cfg) == 80


def test_no_dataset_at_all(cfg):
    with pytest.raises(UserError, match="Set MODEL.DETR.NUM_CLASSES"):
        resolve_num_classes(cfg)


def test_dataset_without_class_names(cfg, forget_datasets):
    DatasetCatalog.register("nameless", lambda: [{"file_name": "a.jpg"}])
    cfg.DATASETS.TRAIN = ("nameless",)
    with pytest.raises(UserError, match="'nameless' does not say how many classes"):
        resolve_num_classes(cfg)
    cfg.MODEL.DETR.NUM_CLASSES = 4
    check_num_classes(cfg)


@pytest.mark.parametrize("num_classes", [2, 0])
def test_matching_numbers_pass(cfg, tiny_coco, num_classes):
    tiny_coco()
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ("tiny",)
    cfg.MODEL.DETR.NUM_CLASSES = num_classes
    check_num_classes(cfg)


def test_different_number_is_an_error_with_both(cfg, tiny_coco):
    tiny_coco()
    cfg.DATASETS.TRAIN = ("tiny",)
    cfg.MODEL.DETR.NUM_CLASSES = 80
    with pytest.raises(UserError, match="NUM_CLASSES has 80 classes, but dataset 'tiny' has 2"):
        check_num_classes(cfg)


def test_datasets_of_one_config_must_agree(cfg, tiny_coco):
    tiny_coco(name="two")
    tiny_coco(add_class, name="three")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("two",), ("three",)
    with pytest.raises(UserError, match="'two' has 2 classes, but dataset 'three' has 3"):
        check_num_classes(cfg)


def test_every_class_of_a_panoptic_dataset_has_its_own_category():
    categories = categories_of("coco_2017_val_panoptic")
    assert len({x["id"] for x in categories}) == len(categories) == 133
    assert {"id": 92, "name": "banner", "isthing": 0} in categories
    assert {"id": 90, "name": "toothbrush", "isthing": 1} in categories
