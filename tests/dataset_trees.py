"""The same small dataset, written in every format and layout that is recognised."""

import json
import os
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pycocotools.mask as mask_util
from PIL import Image

from d2detr.datasets.shapes import THING_CLASSES, draw_shapes_image

SIZE = (96, 72)  # width and height, which differ so that mixing them up shows


def draw(count, seed=0):
    """Returns COCO content with integer boxes and images as arrays."""
    images, annotations, pixels = [], [], []
    for index in range(count):
        shapes = draw_shapes_image([9, seed, index], SIZE[0])
        image_id, top = index + 1, (SIZE[0] - SIZE[1]) // 2
        pixels.append(shapes.image[top : top + SIZE[1]])
        masks = shapes.masks[:, top : top + SIZE[1]]
        name = f"img_{seed}_{index:03d}.jpg"
        images.append({"id": image_id, "file_name": name, "width": SIZE[0], "height": SIZE[1]})
        rles = mask_util.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
        for label, rle in zip(shapes.classes, rles, strict=True):
            box = mask_util.toBbox(rle).tolist()
            if min(box[2:]) < 3:
                continue
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": label + 1,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(THING_CLASSES)]
    return {"images": images, "annotations": annotations, "categories": categories}, pixels


def write_images(folder, content, pixels):
    folder.mkdir(parents=True, exist_ok=True)
    for image, array in zip(content["images"], pixels, strict=True):
        Image.fromarray(array).save(folder / image["file_name"], quality=95)


def write_json(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content))


def write_voc_xml(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    names = {x["id"]: x["name"] for x in content["categories"]}
    for image in content["images"]:
        objects = ""
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, w, h = map(int, item["bbox"])
                corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
                box = "".join(f"<{key}>{value}</{key}>" for key, value in corners.items())
                name = escape(names[item["category_id"]])
                objects += (
                    f"<object><name>{name}</name><pose>Left</pose><truncated>0</truncated>"
                    f"<difficult>0</difficult>"
                    f"<bndbox>{box}</bndbox></object>"
                )
        (folder / image["file_name"]).with_suffix(".xml").write_text(
            f"<annotation><filename>{image['file_name']}</filename><size><width>{image['width']}"
            f"</width><height>{image['height']}</height><depth>3</depth></size>{objects}"
            "</annotation>"
        )


def write_yolo_labels(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    for image in content["images"]:
        lines = []
        for item in content["annotations"]:
            if item["image_id"] == image["id"]:
                x, y, w, h = item["bbox"]
                values = ((x + w / 2) / SIZE[0], (y + h / 2) / SIZE[1], w / SIZE[0], h / SIZE[1])
                lines.append(" ".join(map(repr, (item["category_id"] - 1, *values))))
        (folder / image["file_name"]).with_suffix(".txt").write_text("\n".join(lines))


def coco(root, splits):
    for split, (content, pixels) in splits.items():
        write_images(root / f"{split}2017", content, pixels)
        write_json(root / "annotations" / f"instances_{split}2017.json", content)


def coco_roboflow(root, splits):
    for split, (content, pixels) in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        parent = {"id": 0, "name": "shapes", "supercategory": "none"}
        children = [{**x, "supercategory": "shapes"} for x in content["categories"]]
        write_images(folder, content, pixels)
        exported = {**content, "categories": [parent, *children]}
        write_json(folder / "_annotations.coco.json", exported)
    (root / "README.roboflow.txt").write_text("Exported.")


def voc(root, splits):
    for split, (content, pixels) in splits.items():
        write_images(root / "JPEGImages", content, pixels)
        write_voc_xml(root / "Annotations", content)
        main = root / "ImageSets" / "Main"
        main.mkdir(parents=True, exist_ok=True)
        stems = "".join(Path(x["file_name"]).stem + "\n" for x in content["images"])
        (main / f"{split}.txt").write_text(stems)


def voc_roboflow(root, splits):
    for split, (content, pixels) in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        write_images(folder, content, pixels)
        write_voc_xml(folder, content)


def yolo(root, splits):
    names = []
    for split, (content, pixels) in splits.items():
        write_images(root / "images" / split, content, pixels)
        write_yolo_labels(root / "labels" / split, content)
        names = [x["name"] for x in content["categories"]]
    places = "".join(f"{split}: images/{split}\n" for split in splits)
    listed = "".join(f"  {index}: {name}\n" for index, name in enumerate(names))
    (root / "data.yaml").write_text(f"path: /somebody/elses/folder\n{places}names:\n{listed}")


def yolo_roboflow(root, splits):
    names = []
    for split, (content, pixels) in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        write_images(folder / "images", content, pixels)
        write_yolo_labels(folder / "labels", content)
        names = [x["name"] for x in content["categories"]]
    places = "".join(f"{x}: ../{'valid' if x == 'val' else x}/images\n" for x in splits)
    (root / "data.yaml").write_text(f"{places}nc: {len(names)}\nnames: {names}\n")


def yolo_darknet(root, splits):
    """As Roboflow exports it: everything of a split in one folder, with a list of the classes."""
    for split, (content, pixels) in splits.items():
        folder = root / {"val": "valid"}.get(split, split)
        write_images(folder, content, pixels)
        write_yolo_labels(folder, content)
        write_class_list(folder / "_darknet.labels", content)


def yolo_flat(root, content, pixels):
    """As labelImg leaves it: images, labels and classes.txt in one folder."""
    write_images(root, content, pixels)
    write_yolo_labels(root, content)
    write_class_list(root / "classes.txt", content)


def write_class_list(file, content):
    file.write_text("".join(f"{x['name']}\n" for x in content["categories"]))


WRITERS = (coco, coco_roboflow, voc, voc_roboflow, yolo, yolo_roboflow, yolo_darknet)
FORMATS = {write.__name__: write for write in WRITERS}


def two_splits(train=10, val=3):
    return {"train": draw(train, seed=1), "val": draw(val, seed=2)}


def relative_files(root):
    return sorted(os.path.relpath(x, root) for x in Path(root).rglob("*") if x.is_file())
