from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.structures import Instances

from d2detr.modeling import SoftmaxWithNoObject, postprocess_masks
from d2detr.modeling.postprocess_masks import Segmenter, instance_masks, panoptic_segmentation

CASE = torch.load(
    Path(__file__).parents[1] / "reference" / "criterion_cases.pt", weights_only=True
)["postprocess"]
SIZES = [tuple(x) for x in CASE["processed_sizes"].tolist()]
OUTPUT_SIZES = [tuple(x) for x in CASE["target_sizes"].tolist()]
THINGS = set(range(91))


def test_instance_masks_of_the_original():
    padded_size = tuple(CASE["processed_sizes"].amax(0).tolist())
    for i, expected in enumerate(CASE["segm_masks"]):
        masks = instance_masks(
            CASE["outputs"]["pred_masks"][i],
            padded_size=padded_size,
            image_size=SIZES[i],
            output_size=OUTPUT_SIZES[i],
            threshold=0.5,
        )
        assert masks.dtype == torch.bool
        assert torch.equal(masks, expected[:, 0].bool())


def segment(i, threshold=0.85, padded_size=None):
    """Both kinds of masks of image i by the whole Segmenter."""
    outputs = CASE["outputs"]
    instances = Instances(OUTPUT_SIZES[i])
    instances.query_index = torch.arange(len(outputs["pred_logits"][i]))
    classification = SoftmaxWithNoObject(outputs["pred_logits"].shape[-1] - 1)
    segmenter = Segmenter(classification, thing_classes=THINGS, panoptic_threshold=threshold)
    return segmenter.segment(
        instances,
        outputs["pred_logits"][i],
        lambda query: outputs["pred_masks"][i][query],
        padded_size=padded_size or SIZES[i],
        image_size=SIZES[i],
    )


@pytest.mark.parametrize("i", [0, 1])
def test_panoptic_segmentation_of_the_original(i):
    """Duplicate stuff, an invisible mask, a low score; and an image with nothing kept."""
    ids, segments = segment(i)["panoptic_seg"]
    expected = CASE["panoptic"][i]
    assert ids.dtype == torch.int32
    assert len(segments) == len(expected["segments_info"])
    # Detectron2 keeps 0 for pixels without a segment; the original begins with it.
    assert torch.equal(ids, expected["id_map"] + (1 if segments else 0))
    for segment_info, expected_info in zip(segments, expected["segments_info"], strict=True):
        assert segment_info["id"] == expected_info["id"] + 1
        for key in ("isthing", "category_id", "area"):
            assert segment_info[key] == expected_info[key]


def test_passes_do_not_change_the_result(monkeypatch):
    whole = segment(0)
    monkeypatch.setattr(postprocess_masks, "_CELLS_PER_PASS", 1)
    monkeypatch.setattr(postprocess_masks, "_PIXELS_PER_PASS", 1)
    one_by_one = segment(0)
    assert torch.equal(one_by_one["instances"].pred_masks, whole["instances"].pred_masks)
    assert torch.equal(one_by_one["panoptic_seg"][0], whole["panoptic_seg"][0])
    assert one_by_one["panoptic_seg"][1] == whole["panoptic_seg"][1]


def test_only_queries_that_are_kept_are_predicted():
    asked = []
    instances = Instances((20, 20))
    instances.query_index = torch.tensor([6, 2])
    class_logits = torch.zeros(8, 4)
    class_logits[:, 3] = 10.0  # no-object
    class_logits[5, 0] = 20.0
    result = Segmenter(SoftmaxWithNoObject(3), thing_classes={0}).segment(
        instances,
        class_logits,
        lambda query: asked.append(query.tolist()) or torch.ones(len(query), 5, 5) * query[0],
        padded_size=(20, 20),
        image_size=(20, 20),
    )
    assert asked == [[2, 5, 6]]
    assert result["instances"].pred_masks.shape == (2, 20, 20)
    assert result["instances"].get_fields().keys() == {"pred_masks"}
    assert result["panoptic_seg"][1][0]["category_id"] == 0


def panoptic(masks, classes, things=(), **options):
    size = tuple(masks.shape[-2:])
    options = {"padded_size": size, "image_size": size, "output_size": size, **options}
    return panoptic_segmentation(
        masks, torch.ones(len(masks)), torch.tensor(classes), thing_classes=things, **options
    )


def test_small_segments_give_their_pixels_to_others():
    masks = torch.zeros(3, 6, 6)
    masks[1, 0, :4] = 5  # 4 pixels: dropped
    masks[2, 3, :5] = 5  # 5 pixels: stays
    ids, segments = panoptic(masks, [7, 8, 9])
    assert [x["category_id"] for x in segments] == [7, 9]
    assert [x["area"] for x in segments] == [31, 5]
    assert ids[0].tolist() == [1] * 6
    kept, _ = panoptic(masks, [7, 8, 9], segment_area=3)
    assert kept[0].tolist() == [2] * 4 + [1] * 2


def test_dropping_goes_on_until_nothing_is_small():
    """Every segment is small, one after the other: nothing is left."""
    ids, segments = panoptic(torch.rand(3, 2, 2), [1, 2, 3])
    assert segments == []
    assert ids.unique().tolist() == [0]


def test_duplicate_things_stay_apart():
    masks = torch.zeros(2, 6, 6)
    masks[1, :3] = 1
    for things, count in (({4}, 2), ((), 1)):
        assert len(panoptic(masks, [4, 4], things)[1]) == count


def test_padding_does_not_count():
    """A batch gives what each image gives alone; the original squeezes the padded masks."""
    masks = torch.randn(4, 6, 8)
    alone = panoptic(masks[:, :, :5], [1, 2, 3, 4], padded_size=(6, 5), image_size=(6, 5))
    in_batch = panoptic(masks, [1, 2, 3, 4], image_size=(6, 5), output_size=(6, 5))
    assert torch.equal(alone[0], in_batch[0])
    assert alone[1] == in_batch[1]


def test_no_queries_at_all():
    ids, segments = panoptic(torch.zeros(0, 3, 4), [])
    assert ids.tolist() == np.zeros((3, 4), dtype=int).tolist()
    assert segments == []
    masks = instance_masks(
        torch.zeros(0, 3, 4),
        padded_size=(3, 4),
        image_size=(3, 4),
        output_size=(6, 8),
        threshold=0.5,
    )
    assert masks.shape == (0, 6, 8)
