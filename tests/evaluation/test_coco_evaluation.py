import numpy as np
import pycocotools.mask as mask_util
import pytest
import torch

from d2detr.evaluation.coco_evaluation import encode_masks


def encode_one_by_one(masks):
    rles = [mask_util.encode(np.asfortranarray(mask, dtype=np.uint8)) for mask in masks.numpy()]
    return [{**rle, "counts": rle["counts"].decode()} for rle in rles]


@pytest.mark.parametrize("shape", [(0, 4, 5), (1, 4, 5), (3, 50, 41), (2, 1, 7), (2, 7, 1)])
def test_masks_are_encoded_as_by_pycocotools(shape):
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(shape, generator=generator) > 0.5
    for masks in (noise, torch.zeros_like(noise), torch.ones_like(noise)):
        assert encode_masks(masks) == encode_one_by_one(masks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_masks_are_encoded_on_the_gpu():
    masks = torch.rand(3, 50, 41) > 0.5
    assert encode_masks(masks.cuda()) == encode_one_by_one(masks)
