import io

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image

from d2detr.errors import UserError
from d2detr.modeling.original_format import (
    BoxPostprocessor,
    OriginalFormat,
    PanopticPostprocessor,
)
from d2detr.modeling.postprocess_masks import instance_masks


class Padded:
    """What the original calls a NestedTensor."""

    def __init__(self, images):
        height, width = (max(image.shape[dim] for image in images) for dim in (1, 2))
        self.tensors = torch.zeros(len(images), 3, height, width)
        self.mask = torch.ones(len(images), height, width, dtype=torch.bool)
        for tensor, mask, image in zip(self.tensors, self.mask, images, strict=True):
            tensor[:, : image.shape[1], : image.shape[2]] = image
            mask[: image.shape[1], : image.shape[2]] = False


@pytest.fixture
def model(tiny_mask_cfg):
    torch.manual_seed(0)
    tiny_mask_cfg.MODEL.DETR.TEST.PANOPTIC_ON = False
    return build_model(tiny_mask_cfg).eval()


@torch.no_grad()
def test_lists_and_padded_batches_give_what_the_model_detects(model):
    inputs = [{"image": torch.randint(0, 256, (3, *size))} for size in ((64, 48), (48, 80))]
    normalised = [(x["image"] - model.pixel_mean) / model.pixel_std for x in inputs]
    outputs = OriginalFormat(model)(normalised)
    for name, value in OriginalFormat(model)(Padded(normalised)).items():
        assert torch.equal(value, outputs[name])
    sizes = torch.tensor([x["image"].shape[1:] for x in inputs])
    found = BoxPostprocessor()(outputs, sizes)
    for index, result in enumerate(model(inputs)):
        instances, size = result["instances"], tuple(sizes[index].tolist())
        torch.testing.assert_close(found[index]["boxes"], instances.pred_boxes.tensor)
        torch.testing.assert_close(found[index]["scores"], instances.scores)
        assert torch.equal(found[index]["labels"], instances.pred_classes)
        masks = instance_masks(
            outputs["pred_masks"][index],
            padded_size=(64, 80),
            image_size=size,
            output_size=size,
            threshold=0.5,
        )
        assert torch.equal(masks, instances.pred_masks)


def test_other_inputs_are_refused(model):
    with pytest.raises(UserError, match="must be a tensor"):
        OriginalFormat(model)(torch.zeros(3, 32, 32))


def test_panoptic_results_are_in_cocos_format():
    logits = torch.full((1, 3, 4), -9.0)
    for query, label in enumerate((0, 2, 3)):  # a thing, stuff and no object
        logits[0, query, label] = 9.0
    masks = torch.full((1, 3, 8, 8), -9.0)
    masks[0, 0, :, :2] = 9.0
    masks[0, 1, :, 2:] = 9.0
    outputs = {"pred_logits": logits, "pred_masks": masks}
    (result,) = PanopticPostprocessor({0, 1})(outputs, [(8, 8)], [(16, 16)])
    assert result["segments_info"] == [
        {"id": 0, "isthing": True, "category_id": 0, "area": 64},
        {"id": 1, "isthing": False, "category_id": 2, "area": 192},
    ]
    pixels = np.asarray(Image.open(io.BytesIO(result["png_string"])))
    assert pixels.shape == (16, 16, 3)
    assert pixels[0, :, 0].tolist() == [0] * 4 + [1] * 12
