"""What tests of recognised datasets compare."""

import os

import numpy as np
import pytest
from detectron2.data import MetadataCatalog
from detectron2.structures import BoxMode

from d2detr.datasets import register_auto_dataset
from d2detr.datasets.catalog import load_dataset
from d2detr.errors import UserError


def boxes_by_image(name):
    """Returns {file name: sorted (class name, box)} as Detectron2 loads it."""
    names = MetadataCatalog.get(name).thing_classes
    return {
        os.path.basename(record["file_name"]): sorted(
            (names[x["category_id"]], *np.round(to_xywh(x), 6)) for x in record["annotations"]
        )
        for record in load_dataset(name)
    }


def to_xywh(annotation):
    return BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYWH_ABS)


def truth(content):
    names = {x["id"]: x["name"] for x in content["categories"]}
    return {
        image["file_name"]: sorted(
            (names[x["category_id"]], *x["bbox"])
            for x in content["annotations"]
            if x["image_id"] == image["id"]
        )
        for image in content["images"]
    }


def refuse(path, *words, val=None):
    """Checks that a dataset is refused, and that the message has these words; returns it."""
    with pytest.raises(UserError) as caught:
        register_auto_dataset(path, val)
    for word in words:
        assert word in str(caught.value), (word, str(caught.value))
    return str(caught.value)
