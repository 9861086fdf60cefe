"""The runner stands alone, and resizes as the model was trained."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from d2detr.data import build_augmentation
from d2detr.errors import UserError
from d2detr.export import ExportedModel, runner
from d2detr.export.predictor import ExportedPredictor
from d2detr.modeling.postprocess_masks import instance_masks, panoptic_segmentation


def test_imports_nothing_of_this_project_and_no_library_before_it_is_needed():
    modules = []
    for node in ast.parse(Path(runner.__file__).read_text()).body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules.append(node.module)
    outside = {name.split(".")[0] for name in modules} - sys.stdlib_module_names
    assert outside == {"numpy", "PIL"}


@pytest.mark.parametrize(
    "size", [(480, 640), (640, 480), (33, 500), (96, 96), (500, 31), (97, 193)]
)
def test_resizes_like_the_models_own_preprocessing(tiny_cfg, size):
    tiny_cfg.INPUT.MAX_SIZE_TEST = 200
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    expected = T.AugInput(image)
    T.AugmentationList(build_augmentation(tiny_cfg, is_train=False))(expected)
    found = runner.resize(image, tiny_cfg.INPUT.MIN_SIZE_TEST, 200)
    np.testing.assert_array_equal(found, expected.image)


def test_a_short_side_of_zero_leaves_images_alone():
    image = np.zeros((3, 5, 3), np.uint8)
    assert runner.resize(image, 0, 1333) is image


def test_pads_right_and_below_and_orders_channels():
    images = [np.full((2, 4, 3), (1, 2, 3), np.uint8), np.full((3, 1, 3), 9, np.uint8)]
    batch, sizes = runner.pad(images, "BGR")
    assert batch.shape == (2, 3, 3, 4) and sizes.tolist() == [[2, 4], [3, 1]]
    assert batch[0, :, 0, 0].tolist() == [3, 2, 1] and not batch[0, :, 2].any()
    assert (batch[1, :, :, 0] == 9).all() and not batch[1, :, :, 1:].any()


@pytest.mark.parametrize("output", [(60, 84), (30, 42), (90, 71)])
def test_masks_and_segments_are_those_of_the_model(output):
    logits = torch.randn(6, 16, 24, generator=torch.Generator().manual_seed(0)) * 3
    padded, size = (64, 96), (60, 84)
    sizes = {"padded_size": padded, "image_size": size, "output_size": output}
    expected = instance_masks(logits, threshold=0.6, **sizes)
    found = runner.binary_masks(logits.numpy(), 0.6, padded, size, output)
    assert (expected.numpy() != found).mean() < 1e-3

    logits[0] -= 5  # too small a segment
    smallest = output[0] * output[1] // 8
    scores, classes = torch.linspace(0.9, 1, 6), torch.tensor([0, 2, 1, 2, 2, 1])
    ids, segments = panoptic_segmentation(
        logits[:5], scores[:5], classes[:5], thing_classes={0, 1}, segment_area=smallest, **sizes
    )
    classes[5] = 3  # none of a segment
    outputs = {
        "masks": logits.numpy(),
        "segment_scores": scores.numpy(),
        "segment_classes": classes.numpy(),
    }
    facts = {"classes": ["a", "b", "c"], "thing_classes": [0, 1], "segment_area": smallest}
    found_ids, found_segments = runner.panoptic_segmentation(outputs, facts, padded, size, output)
    assert (ids.numpy() != found_ids).mean() < 1e-3
    assert 1 < len(segments) < 5
    for theirs, ours in zip(segments, found_segments, strict=True):
        assert theirs.pop("area") == pytest.approx(ours.pop("area"), abs=3)
        assert theirs == ours


def test_without_segments_every_id_is_zero():
    outputs = {
        "masks": np.zeros((2, 4, 4), np.float32),
        "segment_classes": np.array([1, 1]),
        "segment_scores": np.zeros(2, np.float32),
    }
    facts = {"classes": ["a"], "thing_classes": [0], "segment_area": 4}
    ids, segments = runner.panoptic_segmentation(outputs, facts, (16, 16), (16, 16), (5, 6))
    assert segments == [] and ids.shape == (5, 6) and not ids.any()


def test_rotated_photos_are_read_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("L", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert runner.read(tmp_path / "a.jpg").shape == (8, 4, 3)


def test_files_that_are_no_exported_model_are_refused(tmp_path):
    other = tmp_path / "model.pth"
    other.touch()
    with pytest.raises(ValueError, match="ends in none of"):
        ExportedModel(other)
    with pytest.raises(UserError, match="There is no exported model"):
        ExportedPredictor(tmp_path / "model.onnx")
