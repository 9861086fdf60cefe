import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from fvcore.transforms.transform import HFlipTransform
from PIL import Image

from d2detr.data import DetrDatasetMapper, annotations_to_instances
from d2detr.datasets import ShapesSplit, register_shapes_split
from d2detr.datasets.catalog import load_dataset
from d2detr.datasets.panoptic import panoptic_annotations, read_segment_ids
from d2detr.doctor import check_datasets
from d2detr.errors import UserError

REFERENCE = Path(__file__).parents[1] / "reference" / "criterion_cases.pt"


@pytest.fixture
def record(tmp_path):
    """A 6 x 4 image: stuff 3 around thing 70000, a crowd 5 and void."""
    ids = np.full((4, 6), 3)
    ids[1:3, 2:5] = 70000
    ids[3, 4:] = 5
    ids[0, 0] = 0
    write_ids(tmp_path / "a.png", ids)
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg")
    segments = [
        {"id": 70000, "category_id": 1, "iscrowd": 0, "isthing": True},
        {"id": 3, "category_id": 8, "iscrowd": 0, "isthing": False},
        {"id": 5, "category_id": 1, "iscrowd": 1, "isthing": True},
    ]
    return {
        "file_name": str(tmp_path / "a.jpg"),
        "pan_seg_file_name": str(tmp_path / "a.png"),
        "segments_info": segments,
    }


def write_ids(file, ids):
    colors = np.stack((ids % 256, ids // 256 % 256, ids // 256**2), axis=-1)
    Image.fromarray(colors.astype(np.uint8)).save(file)


def test_segments_become_annotations(record):
    thing, stuff = panoptic_annotations(record, (4, 6), with_masks=True)
    assert (thing["category_id"], stuff["category_id"]) == (1, 8)
    # As in the original, boxes end at the last pixel's index.
    assert thing["bbox"] == [2, 1, 4, 2]
    assert stuff["bbox"] == [0, 0, 5, 3]
    pixels = [(x["segmentation"].labels == x["segmentation"].number).sum() for x in (thing, stuff)]
    assert pixels == [6, 24 - 6 - 2 - 1]
    assert "segmentation" not in panoptic_annotations(record, (4, 6), with_masks=False)[0]


def test_boxes_are_those_of_the_original(record):
    reference = torch.load(REFERENCE, weights_only=True)
    case = reference["masks_to_boxes"]
    for mask, box in zip(case["masks"].numpy(), case["boxes"].tolist(), strict=True):
        write_ids(record["pan_seg_file_name"], mask.astype(int))
        segments = [{"id": 1, "category_id": 0}]
        annotations = panoptic_annotations(
            {**record, "segments_info": segments}, mask.shape, with_masks=False
        )
        assert annotations[0]["bbox"] == box


def test_more_segments_than_a_byte_can_number(record):
    ids = np.arange(1, 301).reshape(20, 15).repeat(2, axis=0).repeat(2, axis=1)
    write_ids(record["pan_seg_file_name"], ids)
    segments = [{"id": number, "category_id": 0} for number in range(1, 301)]
    annotations = panoptic_annotations(
        {**record, "segments_info": segments}, ids.shape, with_masks=True
    )
    instances = annotations_to_instances(annotations, HFlipTransform(30), ids.shape, True)
    expected = ids[:, ::-1] == np.arange(1, 301)[:, None, None]
    assert torch.equal(instances.gt_masks.tensor, torch.from_numpy(expected))


def test_mapper_gives_all_segments_as_instances(record, cfg):
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (8,)
    cfg.INPUT.RANDOM_FLIP = "none"
    instances = DetrDatasetMapper(cfg, is_train=True)(record)["instances"]
    assert instances.image_size == (8, 12)
    assert instances.gt_classes.tolist() == [1, 8]
    assert instances.gt_boxes.tensor[0].tolist() == [4, 2, 8, 4]
    masks = instances.gt_masks.tensor
    assert masks[0, 2:6, 4:10].all()
    assert masks[0].sum() == 24
    assert not (masks[0] & masks[1]).any()

    cfg.MODEL.MASK_ON = False
    assert not DetrDatasetMapper(cfg, is_train=True)(record)["instances"].has("gt_masks")


def test_masks_are_cropped_with_the_image(record, cfg):
    """A flip and a crop move pixels and masks alike: the image shows the segment ids."""
    colors = np.asarray(Image.open(record["pan_seg_file_name"]))
    Image.fromarray(colors).save(record["file_name"].replace(".jpg", ".png2"), format="PNG")
    record = {**record, "file_name": record["file_name"].replace(".jpg", ".png2")}
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.PROBABILITY = 1.0
    cfg.INPUT.CROP.RESIZE_SIZES = ()
    cfg.INPUT.CROP.TYPE = "absolute"
    cfg.INPUT.CROP.SIZE = (3, 4)
    mapper = DetrDatasetMapper(cfg, is_train=True)
    np.random.seed(0)
    for _ in range(8):
        output = mapper(record)
        ids = output["image"].int().permute(1, 2, 0) @ torch.tensor([1, 256, 256**2]).int()
        for label, mask in zip(
            output["instances"].gt_classes, output["instances"].gt_masks.tensor, strict=True
        ):
            assert torch.equal(mask, ids == {1: 70000, 8: 3}[label.item()])


def damage_size(record):
    write_ids(record["pan_seg_file_name"], np.full((4, 5), 3))


def damage_json(record):
    record["segments_info"].pop(0)


def damage_png(record):
    write_ids(record["pan_seg_file_name"], np.full((4, 6), 3))


def damage_file(record):
    record["pan_seg_file_name"] += "x"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_size, r"a.png is 5 x 4 pixels, but its image .*a.jpg is 6 x 4"),
        (damage_json, r"a.png has segment id 70000, which its segments_info does not describe"),
        (damage_png, r"segments_info of .*a.png describes segment id 70000, which has no pixel"),
        (damage_file, r"Panoptic PNG .*a.pngx cannot be read"),
    ],
)
def test_faults_are_named(record, damage, message):
    damage(record)
    with pytest.raises(UserError, match=message):
        panoptic_annotations(record, (4, 6), with_masks=True)


@pytest.fixture
def shapes(tmp_path, forget_datasets, tiny_mask_cfg):
    """Three registered images, their directory and a config that names them."""
    directory = tmp_path / "shapes"
    register_shapes_split("three_shapes", directory, ShapesSplit(num_images=3, size=48))
    tiny_mask_cfg.DATASETS.TRAIN = tiny_mask_cfg.DATASETS.TEST = ("three_shapes_panoptic",)
    return directory, tiny_mask_cfg


def test_checks_pass_and_count_segments(shapes, caplog):
    check_datasets(shapes[1])
    dataset = DatasetCatalog.get("three_shapes_panoptic")
    assert read_segment_ids(dataset[0]["pan_seg_file_name"]).shape == (48, 48)


def edit_json(directory, edit):
    content = json.loads((directory / "panoptic.json").read_text())
    edit(content["annotations"])
    (directory / "panoptic.json").write_text(json.dumps(content))


def test_checks_find_faults_before_training(shapes):
    directory, cfg = shapes
    load_dataset("three_shapes_panoptic")
    edit_json(directory, lambda x: x[2]["segments_info"].pop())
    with pytest.raises(UserError, match=r"000003.png has segment id"):
        check_datasets(cfg)
    (directory / "panoptic" / "000002.png").rename(directory / "panoptic" / "other.png")
    with pytest.raises(UserError, match=r"1 files of images do not exist.*000002.png"):
        check_datasets(cfg)


def test_categories_unknown_to_the_metadata(shapes):
    directory, cfg = shapes
    load_dataset("three_shapes_panoptic")
    edit_json(directory, lambda x: x[1]["segments_info"][0].update(category_id=99))
    with pytest.raises(UserError, match="000002.png has category_id 99.*7 categories"):
        check_datasets(cfg)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "truncated"), ("[]", "panoptic format"), ('{"annotations": [{}]}', "has no 'image_id'")],
)
def test_broken_json(shapes, text, message):
    directory, cfg = shapes
    load_dataset("three_shapes_panoptic")
    (directory / "panoptic.json").write_text(text)
    file = re.escape(MetadataCatalog.get("three_shapes_panoptic").panoptic_json)
    with pytest.raises(UserError, match=f"{file}.*{message}"):
        check_datasets(cfg)
