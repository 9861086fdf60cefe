import copy
import sys

import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch
from detectron2.data import DatasetCatalog, build_detection_train_loader
from detectron2.data import transforms as T
from detectron2.structures import BoxMode
from detectron2.utils.env import seed_all_rng
from PIL import Image, ImageDraw

from d2detr.data import DetrDatasetMapper, build_augmentation
from d2detr.errors import UserError

HEIGHT, WIDTH = 90, 140
# Corners of two objects, which are painted in colours of their own.
TRIANGLE = [(20, 12), (66, 30), (30, 71)]
HEXAGON = [(90, 20), (118, 26), (131, 52), (117, 80), (84, 74), (76, 44)]
COLORS = [(255, 0, 0), (0, 0, 255)]


def draw(tmp_path, segmentation_type="polygon", box_type=float):
    """Paint the objects on black; return the dataset dict whose annotations describe them."""
    image = Image.new("RGB", (WIDTH, HEIGHT))
    annotations = []
    for label, (corners, color) in enumerate(zip([TRIANGLE, HEXAGON], COLORS, strict=True)):
        rle = mask_util.frPyObjects([np.ravel(corners).tolist()], HEIGHT, WIDTH)[0]
        bitmap = mask_util.decode(rle)
        image.paste(color, mask=Image.fromarray(bitmap * 255))
        flat = np.asfortranarray(bitmap).ravel(order="F")
        runs = np.diff(np.flatnonzero(np.diff(np.r_[1 - flat[0], flat, 1 - flat[-1]])))
        segmentation = {
            "polygon": [np.ravel(corners).tolist()],
            "rle": rle,
            "runs": {"size": [HEIGHT, WIDTH], "counts": [0] * int(flat[0]) + runs.tolist()},
            "bitmap": bitmap,
        }[segmentation_type]
        annotations.append(
            {
                "bbox": [box_type(x) for x in mask_util.toBbox(rle)],
                "bbox_mode": BoxMode.XYWH_ABS,
                "category_id": label,
                "segmentation": segmentation,
                "iscrowd": 0,
            }
        )
    file_name = str(tmp_path / "objects.png")
    image.save(file_name)
    return {
        "file_name": file_name,
        "image_id": 7,
        "height": HEIGHT,
        "width": WIDTH,
        "annotations": annotations,
    }


def mapper_for(cfg, flip="horizontal", sizes=(60, 90, 130), crop=True, masks=True):
    cfg.INPUT.RANDOM_FLIP = flip
    cfg.INPUT.MIN_SIZE_TRAIN = sizes
    cfg.INPUT.MAX_SIZE_TRAIN = 180
    cfg.INPUT.CROP.ENABLED = crop
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = (30, 80)
    cfg.INPUT.CROP.RESIZE_SIZES = (50, 70, 100)
    cfg.MODEL.MASK_ON = masks
    return DetrDatasetMapper(cfg, is_train=True)


def painted_pixels(image, label):
    """Where an image (C, H, W) shows the colour of an object, blurred edges included."""
    channel, others = (0, 2) if label == 0 else (2, 0)
    return (image[channel] >= 128) & (image[others] < 128)


def box_of(mask):
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    return torch.stack((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)).float()


@pytest.mark.parametrize("segmentation_type", ["polygon", "rle", "runs", "bitmap"])
@pytest.mark.parametrize("flip", ["horizontal", "vertical"])
def test_boxes_and_masks_still_fit_after_augmentation(cfg, tmp_path, segmentation_type, flip):
    mapper = mapper_for(cfg, flip=flip)
    dataset_dict = draw(tmp_path, segmentation_type)
    np.random.seed(0)
    num_whole = num_cut = num_lost = 0
    for _ in range(60):
        output = mapper(dataset_dict)
        instances = output["instances"]
        num_lost += 2 - len(instances)
        assert instances.image_size == output["image"].shape[1:]
        for label, box, mask in zip(
            instances.gt_classes.tolist(),
            instances.gt_boxes.tensor,
            instances.gt_masks.tensor,
            strict=True,
        ):
            painted = painted_pixels(output["image"], label)
            if painted.sum() < 50:
                continue
            union, intersection = (painted | mask).sum(), (painted & mask).sum()
            # Half a pixel along the outline, at most.
            assert union - intersection <= 2 * sum(box_of(painted)[2:] - box_of(painted)[:2]) * 0.75
            assert intersection / union > 0.8
            visible = box_of(painted)
            limits = torch.tensor(output["image"].shape[1:][::-1] * 2)
            inside = (box > 0) & (box < limits)
            assert (visible[:2] >= box[:2] - 1.5).all()
            assert (visible[2:] <= box[2:] + 1.5).all()
            if inside.all():
                num_whole += 1
                assert (visible - box).abs().max() <= 1.5
            else:
                num_cut += 1
    assert num_whole > 20
    assert num_cut > 5
    assert num_lost > 0


def test_lost_objects_are_not_in_the_crop(cfg, tmp_path):
    mapper = mapper_for(cfg)
    dataset_dict = draw(tmp_path)
    np.random.seed(1)
    checked = 0
    for _ in range(60):
        output = mapper(dataset_dict)
        for label in {0, 1} - set(output["instances"].gt_classes.tolist()):
            checked += 1
            assert painted_pixels(output["image"], label).sum() == 0
    assert checked > 5


def test_crop_cuts_boxes_but_does_not_tighten_them(tmp_path):
    dataset_dict = draw(tmp_path)
    # Through the triangle, whose right corner lies at y = 30, above what is left.
    mapper = DetrDatasetMapper(
        augmentations=[T.CropTransform(0, 40, WIDTH, HEIGHT - 40)],
        image_format="RGB",
        use_instance_mask=True,
    )
    instances = mapper(dataset_dict)["instances"]
    x, y, width, height = dataset_dict["annotations"][0]["bbox"]
    expected = [x, 0, x + width, y + height - 40]
    assert instances.gt_boxes.tensor[0].tolist() == expected
    assert box_of(instances.gt_masks.tensor[0])[2] < expected[2] - 5


def test_object_is_kept_as_long_as_its_box_has_area(tmp_path):
    dataset_dict = draw(tmp_path)
    # The upper right corner of the triangle's box, where the triangle is not.
    mapper = DetrDatasetMapper(
        augmentations=[T.CropTransform(50, 0, 20, 20)], image_format="RGB", use_instance_mask=True
    )
    instances = mapper(dataset_dict)["instances"]
    assert instances.gt_classes.tolist() == [0]
    assert not instances.gt_masks.tensor.any()


def test_integer_boxes_are_not_truncated(tmp_path):
    dataset_dict = draw(tmp_path, box_type=int)
    dataset_dict["annotations"][0]["bbox"] = [11, 13, 21, 33]
    mapper = DetrDatasetMapper(
        augmentations=[T.Resize((HEIGHT * 3 // 2, WIDTH * 3 // 2))], image_format="RGB"
    )
    box = mapper(dataset_dict)["instances"].gt_boxes.tensor[0]
    assert box.tolist() == [16.5, 19.5, 48.0, 69.0]


def test_cropping_polygons_needs_no_shapely(cfg, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "shapely", None)
    monkeypatch.setitem(sys.modules, "shapely.geometry", None)
    mapper = DetrDatasetMapper(
        augmentations=[T.CropTransform(30, 20, 60, 50)], image_format="RGB", use_instance_mask=True
    )
    assert len(mapper(draw(tmp_path))["instances"].gt_masks) == 2


def test_crowds_and_boxes_without_area_are_left_out_of_every_field(cfg, tmp_path):
    dataset_dict = draw(tmp_path)
    triangle, hexagon = dataset_dict["annotations"]
    crowd = {**copy.deepcopy(triangle), "iscrowd": 1}
    flat = {**copy.deepcopy(triangle), "bbox": [10, 10, 20, 0]}
    outside = {**copy.deepcopy(triangle), "bbox": [WIDTH + 5, 10, 20, 20]}
    beyond = {**copy.deepcopy(triangle), "bbox": [WIDTH - 20, -5, 50, 25]}
    dataset_dict["annotations"] = [crowd, flat, hexagon, outside, beyond]
    mapper = DetrDatasetMapper(augmentations=[], image_format="RGB", use_instance_mask=True)
    instances = mapper(dataset_dict)["instances"]
    assert instances.gt_classes.tolist() == [1, 0]
    assert instances.gt_boxes.tensor[1].tolist() == [WIDTH - 20, 0, WIDTH, 20]
    expected = mask_util.decode(
        mask_util.frPyObjects([np.ravel(HEXAGON).tolist()], HEIGHT, WIDTH)[0]
    )
    assert instances.gt_masks.tensor[0].numpy().astype(np.uint8).tolist() == expected.tolist()


@pytest.mark.parametrize("masks", [True, False])
def test_image_without_annotations_is_kept(cfg, tmp_path, masks):
    dataset_dict = {**draw(tmp_path), "annotations": []}
    output = mapper_for(cfg, masks=masks)(dataset_dict)
    instances = output["instances"]
    assert instances.gt_boxes.tensor.shape == (0, 4)
    assert instances.gt_classes.shape == (0,)
    assert instances.gt_classes.dtype == torch.int64
    assert instances.has("gt_masks") == masks
    if masks:
        assert instances.gt_masks.tensor.shape == (0, *output["image"].shape[1:])


def test_input_is_not_modified_and_other_keys_are_kept(cfg, tmp_path):
    dataset_dict = draw(tmp_path)
    before = copy.deepcopy(dataset_dict)
    output = mapper_for(cfg)(dataset_dict)
    assert dataset_dict == before
    assert output["image"].dtype == torch.uint8
    assert "annotations" not in output
    assert {key: output[key] for key in ("file_name", "image_id", "height", "width")} == {
        "file_name": before["file_name"],
        "image_id": 7,
        "height": HEIGHT,
        "width": WIDTH,
    }


def test_inference_has_no_annotations(cfg, tmp_path):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 45, 100
    output = DetrDatasetMapper(cfg, is_train=False)(draw(tmp_path))
    assert output["image"].shape == (3, 45, 70)
    assert (output["height"], output["width"]) == (HEIGHT, WIDTH)
    assert not {"instances", "annotations"} & set(output)


def test_annotations_with_the_augmentation_of_inference(cfg, tmp_path):
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 45, 100
    mapper = DetrDatasetMapper(
        is_train=True, augmentations=build_augmentation(cfg, is_train=False), image_format="RGB"
    )
    assert len(mapper(draw(tmp_path))["instances"]) == 2


@pytest.mark.parametrize(("image_format", "channel"), [("RGB", 0), ("BGR", 2)])
def test_channels_follow_the_input_format(tmp_path, image_format, channel):
    mapper = DetrDatasetMapper(augmentations=[], image_format=image_format)
    red_pixel = mapper(draw(tmp_path))["image"][:, 35, 35]
    assert red_pixel.tolist() == [255 if c == channel else 0 for c in range(3)]


def test_exif_orientation_is_applied(tmp_path):
    file_name = str(tmp_path / "rotated.png")
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise for viewing
    image = Image.new("RGB", (40, 20))
    ImageDraw.Draw(image).rectangle((0, 0, 9, 9), fill=(255, 255, 255))
    image.save(file_name, exif=exif)
    output = DetrDatasetMapper(augmentations=[], image_format="RGB")({"file_name": file_name})
    assert (output["height"], output["width"]) == (40, 20)
    assert output["image"][:, :10, 10:].min() == 255
    assert output["image"][:, 10:].max() == 0


def test_size_that_differs_from_the_annotation_is_an_error(tmp_path):
    dataset_dict = {**draw(tmp_path), "height": WIDTH, "width": HEIGHT}
    mapper = DetrDatasetMapper(augmentations=[], image_format="RGB")
    with pytest.raises(
        UserError, match=rf"objects.png is {WIDTH} x {HEIGHT} .* {HEIGHT} x {WIDTH}"
    ):
        mapper(dataset_dict)


def break_file(file_name, how):
    with open(file_name, "rb") as file:
        content = file.read()
    contents = {"truncated": content[: len(content) // 2], "text": b"no image", "empty": b""}
    with open(file_name, "wb") as file:
        file.write(contents[how])


@pytest.mark.parametrize("how", ["truncated", "text", "empty"])
def test_unreadable_image_is_named(tmp_path, how):
    dataset_dict = draw(tmp_path)
    break_file(dataset_dict["file_name"], how)
    mapper = DetrDatasetMapper(augmentations=[], image_format="RGB")
    with pytest.raises(UserError, match="objects.png cannot be read"):
        mapper(dataset_dict)


def test_unreadable_image_is_named_by_a_worker(tmp_path):
    dataset_dict = draw(tmp_path)
    break_file(dataset_dict["file_name"], "truncated")
    mapper = DetrDatasetMapper(augmentations=[], image_format="RGB")
    loader = build_detection_train_loader(
        [dataset_dict], mapper=mapper, total_batch_size=1, num_workers=1
    )
    # The class survives; torch puts the worker's traceback before the message.
    with pytest.raises(UserError, match="objects.png cannot be read"):
        next(iter(loader))


def first_batches(cfg, tmp_path, seed, num_workers, grouping):
    seed_all_rng(seed)
    loader = build_detection_train_loader(
        [{**draw(tmp_path), "image_id": image_id} for image_id in range(8)],
        mapper=mapper_for(cfg),
        total_batch_size=3,
        num_workers=num_workers,
        aspect_ratio_grouping=grouping,
    )
    iterator = iter(loader)
    return [image for _ in range(4) for image in next(iterator)]


def same(images, others):
    return all(
        one["image_id"] == other["image_id"]
        and torch.equal(one["image"], other["image"])
        and torch.equal(one["instances"].gt_boxes.tensor, other["instances"].gt_boxes.tensor)
        and torch.equal(one["instances"].gt_masks.tensor, other["instances"].gt_masks.tensor)
        for one, other in zip(images, others, strict=True)
    )


@pytest.mark.parametrize("grouping", [False, True])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_seed_fixes_the_batches(cfg, tmp_path, num_workers, grouping):
    images = first_batches(cfg, tmp_path, 5, num_workers, grouping)
    assert same(images, first_batches(cfg, tmp_path, 5, num_workers, grouping))
    assert not same(images, first_batches(cfg, tmp_path, 6, num_workers, grouping))


def test_workers_augment_differently(cfg, tmp_path):
    images = first_batches(cfg, tmp_path, 5, 2, False)
    assert len({tuple(image["image"].shape) for image in images}) > 3


def test_real_photographs(cfg):
    try:
        dataset = DatasetCatalog.get("coco_2017_train")
    except FileNotFoundError:
        pytest.skip("needs COCO train2017 below DETECTRON2_DATASETS")
    mapper = mapper_for(cfg, crop=False, sizes=(300, 400))
    distances = []
    for dataset_dict in dataset[:60]:
        instances = mapper(dataset_dict)["instances"]
        crowds = sum(item["iscrowd"] for item in dataset_dict["annotations"])
        assert len(instances) == len(dataset_dict["annotations"]) - crowds
        for box, mask in zip(instances.gt_boxes.tensor, instances.gt_masks.tensor, strict=True):
            if mask.any():
                distances.append((box_of(mask) - box).abs().max().item())
    assert np.quantile(distances, 0.95) < 2
