import json

import pytest
from detectron2.config import get_cfg
from detectron2.data.datasets import register_coco_instances
from PIL import Image

from d2detr import add_detr_config


@pytest.fixture
def cfg():
    cfg = get_cfg()
    add_detr_config(cfg)
    cfg.INPUT.FORMAT = "RGB"
    return cfg


@pytest.fixture
def tiny_coco(tmp_path, forget_datasets):
    """Writes and registers "tiny": two 40 x 30 images, two categories, three annotations."""

    def register(edit=lambda content: None, name="tiny"):
        directory = tmp_path / name
        directory.mkdir()
        for stem in ("a", "b"):
            Image.effect_noise((40, 30), 50).convert("RGB").save(directory / f"{stem}.jpg")
        boxes = [(1, 1, [2, 3, 10, 12]), (1, 2, [20, 5, 8, 9]), (2, 1, [0, 0, 30, 20])]
        content = {
            "images": [
                {"id": i + 1, "file_name": f"{stem}.jpg", "width": 40, "height": 30}
                for i, stem in enumerate("ab")
            ],
            "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
            "annotations": [
                {
                    "id": 11 + i,
                    "image_id": image_id,
                    "category_id": category_id,
                    "bbox": [float(x) for x in box],
                    "area": float(box[2] * box[3]),
                    "iscrowd": 0,
                }
                for i, (image_id, category_id, box) in enumerate(boxes)
            ],
        }
        edit(content)
        json_file = directory / "instances.json"
        json_file.write_text(json.dumps(content))
        register_coco_instances(name, {}, str(json_file), str(directory))
        return directory

    return register
