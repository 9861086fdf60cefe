import numpy as np
import pytest
from detectron2.data import transforms as T
from fvcore.transforms.transform import CropTransform, HFlipTransform, VFlipTransform

from d2detr.data import ResizeShortSide, build_augmentation, short_side_shape
from d2detr.data.augmentation import FastResizeTransform
from d2detr.errors import UserError

ORIGINAL_SIZES = tuple(range(480, 801, 32))


def transforms_of(augmentations, height=480, width=640, draws=1):
    """Apply the augmentations to a blank image; return (shape, transforms) of every draw."""
    results = []
    for _ in range(draws):
        aug_input = T.AugInput(np.zeros((height, width, 3), dtype=np.uint8))
        transforms = T.AugmentationList(augmentations)(aug_input)
        results.append((aug_input.image.shape[:2], transforms.transforms))
    return results


def use_original_recipe(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = ORIGINAL_SIZES
    cfg.INPUT.CROP.ENABLED = True
    cfg.INPUT.CROP.TYPE = "absolute_range"
    cfg.INPUT.CROP.SIZE = (384, 600)


@pytest.mark.parametrize(
    ("shape", "short_side", "max_size", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.7: Detectron2 would round to 1067
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((800, 1201), 800, 1333, (800, 1201)),
        ((500, 500), 480, 1333, (480, 480)),
        ((300, 1000), 800, None, (800, 2666)),
        ((300, 1000), 800, 1333, (400, 1333)),  # 399.9 is rounded
        ((333, 1000), 800, 1333, (444, 1333)),
        ((375, 1000), 800, 1333, (500, 1333)),
        ((1, 3000), 800, 1333, (1, 3000)),  # never zero pixels
    ],
)
def test_short_side_shape_rounds_like_the_original(shape, short_side, max_size, expected):
    assert short_side_shape(*shape, short_side, max_size) == expected


def test_resize_draws_every_length():
    draws = transforms_of([ResizeShortSide((100, 120, 150))], 60, 90, draws=60)
    assert {shape for shape, _ in draws} == {(100, 150), (120, 180), (150, 225)}


def test_resize_range_includes_both_ends():
    draws = transforms_of([ResizeShortSide((20, 22), sampling="range")], 40, 40, draws=60)
    assert {shape for shape, _ in draws} == {(20, 20), (21, 21), (22, 22)}


@pytest.mark.parametrize("flipped_axes", [(), (1,), (0, 2)])
@pytest.mark.parametrize("shape", [(30, 40, 3), (30, 40, 1), (30, 40)])
def test_resizing_gives_what_detectron2_gives(shape, flipped_axes):
    axes = [axis for axis in flipped_axes if axis < len(shape)]
    image = np.flip(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8), axes)
    for size in ((45, 60), (99, 132), (18, 24)):
        ours = FastResizeTransform(*shape[:2], *size).apply_image(image).astype(int)
        expected = T.ResizeTransform(*shape[:2], *size).apply_image(image)
        assert ours.shape == expected.shape
        assert abs(ours - expected).max() <= 1
        assert (ours != expected).mean() < 0.05


def test_masks_and_floats_are_resized_as_by_detectron2():
    ours, theirs = (kind(9, 7, 20, 13) for kind in (FastResizeTransform, T.ResizeTransform))
    mask = np.random.default_rng(0).integers(0, 2, (9, 7), dtype=np.uint8)
    assert (ours.apply_segmentation(mask) == theirs.apply_segmentation(mask)).all()
    image = np.float32(mask)
    assert (ours.apply_image(image) == theirs.apply_image(image)).all()


@pytest.mark.parametrize(
    "is_train, fast, kind",
    [
        (True, True, FastResizeTransform),
        (True, False, T.ResizeTransform),
        (False, True, T.ResizeTransform),
    ],
)
def test_inference_resizes_as_the_original(cfg, is_train, fast, kind):
    cfg.INPUT.FAST_RESIZE = fast
    resize = build_augmentation(cfg, is_train)[-1]
    assert type(resize.get_transform(np.zeros((50, 40, 3), np.uint8))) is kind


def test_size_zero_leaves_the_image_alone(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    for is_train in (True, False):
        ((shape, _),) = transforms_of(build_augmentation(cfg, is_train), 2000, 3000)
        assert shape == (2000, 3000)


def test_inference_only_resizes(cfg):
    use_original_recipe(cfg)
    draws = transforms_of(build_augmentation(cfg, is_train=False), draws=5)
    assert {shape for shape, _ in draws} == {(800, 1066)}
    assert all(len(used) == 1 and isinstance(used[0], T.ResizeTransform) for _, used in draws)


def test_half_of_the_images_are_cropped_between_two_resizes(cfg):
    use_original_recipe(cfg)
    draws = transforms_of(build_augmentation(cfg, is_train=True), 450, 640, draws=200)
    num_crops = 0
    for shape, used in draws:
        crops = [t for t in used if isinstance(t, CropTransform)]
        num_crops += len(crops)
        assert min(shape) in ORIGINAL_SIZES
        for crop in crops:
            resize = used[used.index(crop) - 1]
            assert min(resize.new_h, resize.new_w) in (400, 500, 600)
            assert 384 <= crop.w <= 600
            assert 384 <= crop.h <= 600
    assert 70 < num_crops < 130


def test_longest_side_is_limited_in_training(cfg):
    use_original_recipe(cfg)
    cfg.INPUT.CROP.ENABLED = False
    draws = transforms_of(build_augmentation(cfg, is_train=True), 300, 1000, draws=10)
    assert {shape for shape, _ in draws} == {(400, 1333)}


def test_crop_of_a_small_image_keeps_it_whole(cfg):
    use_original_recipe(cfg)
    cfg.INPUT.CROP.PROBABILITY = 1.0
    cfg.INPUT.CROP.RESIZE_SIZES = ()
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    ((shape, used),) = transforms_of(build_augmentation(cfg, is_train=True), 50, 60)
    assert shape == (50, 60)
    assert any(isinstance(t, CropTransform) for t in used)


def test_scale_jitter_crops_what_is_larger_than_the_square(cfg):
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.INPUT.CROP.ENABLED = False
    cfg.INPUT.MIN_SIZE_TRAIN = (100, 200)
    cfg.INPUT.SCALE_JITTER = (0.5, 2.0)
    drawn = transforms_of(build_augmentation(cfg, is_train=True), 480, 640, draws=40)
    shapes = {shape for shape, _ in drawn}
    assert len(shapes) > 10
    assert max(max(shape) for shape in shapes) == 200
    assert min(width for _, width in shapes) < 130
    assert all(
        transforms[0].new_w in range(100, 401) and transforms[0].new_h <= 300
        for _, transforms in drawn
    )


def test_scale_jitter_replaces_the_crop(cfg):
    use_original_recipe(cfg)
    cfg.INPUT.SCALE_JITTER = (0.1, 2.0)
    with pytest.raises(UserError, match="SCALE_JITTER crops already"):
        build_augmentation(cfg, is_train=True)


def test_crop_is_off_by_default(cfg):
    draws = transforms_of(build_augmentation(cfg, is_train=True), draws=30)
    assert not any(isinstance(t, CropTransform) for _, used in draws for t in used)


@pytest.mark.parametrize(
    ("direction", "expected"),
    [("horizontal", HFlipTransform), ("vertical", VFlipTransform), ("none", None)],
)
def test_flips_half_of_the_images(cfg, direction, expected):
    cfg.INPUT.RANDOM_FLIP = direction
    draws = transforms_of(build_augmentation(cfg, is_train=True), 20, 20, draws=200)
    flips = [type(t) for _, used in draws for t in used if "Flip" in type(t).__name__]
    if expected is None:
        assert flips == []
    else:
        assert set(flips) == {expected}
        assert 60 < len(flips) < 140


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("INPUT.RANDOM_FLIP", "diagonal"),
        ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "often"),
        ("INPUT.MIN_SIZE_TRAIN", ()),
        ("INPUT.CROP.TYPE", "round"),
        ("INPUT.CROP.SIZE", (600, 384)),
        ("INPUT.CROP.PROBABILITY", 1.5),
        ("INPUT.SCALE_JITTER", (2.0, 0.1)),
    ],
)
def test_unusable_value_is_named(cfg, key, value):
    use_original_recipe(cfg)
    cfg.merge_from_list([key, value])
    with pytest.raises(UserError, match=key):
        build_augmentation(cfg, is_train=True)


def test_range_sampling_needs_two_lengths(cfg):
    cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING = "range"
    cfg.INPUT.MIN_SIZE_TRAIN = (480, 512, 544)
    with pytest.raises(UserError, match=r"INPUT.MIN_SIZE_TRAIN is .*\(min, max\)"):
        build_augmentation(cfg, is_train=True)
