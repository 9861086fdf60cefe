"""Dividing a dataset into training and validation, with the same classes in both."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from typing import Any

from d2detr.errors import UserError

VALIDATION_SHARE = 0.2
SEED = 0
_LACKS: dict[str | None, str] = {
    "train": "it has no validation split",
    "val": "it has no training split",
    "test": "it has no training split",
}

Content = dict[str, Any]


def divide(found: dict[str | None, Content]) -> tuple[dict[str, Content], str]:
    """Turn the splits that a dataset has into those that training needs.

    Args:
        found: the content of a COCO file for "train", "val" and "test", as far as they exist, or
            for None alone if the dataset is not divided.

    Returns:
        The content for "train", "val" and "all" (both of them), and for "test" if there is one;
        and a sentence that says where the splits come from.

    Raises:
        UserError: a class is annotated in another split than "train" only, or there are too few
            images to hold some out.
    """
    found = dict(found)
    if None in found and len(found) > 1:
        # A file whose name says nothing, beside those of splits: it is for training if none is.
        rest = found.pop(None)
        found.setdefault("train", rest)
    splits: dict[str, Content] = {}
    if "train" in found and "val" in found:
        splits["train"] = found["train"]
        splits["val"] = _with_classes_of(found["train"], found["val"], "val")
        splits["all"] = merge(splits["train"], splits["val"])
        said = "it is divided into train and val"
    else:
        source = "train" if "train" in found else next(iter(found))
        splits["all"] = found[source]
        splits["train"], splits["val"] = hold_out(found[source])
        said = (
            f"{_LACKS.get(source, 'it is not divided')}, so "
            f"{len(splits['val']['images'])} of its {len(found[source]['images'])} images were "
            f"drawn for validation (seed {SEED})"
        )
    if "test" in found and splits["all"] is not found["test"]:
        splits["test"] = _with_classes_of(splits["train"], found["test"], "test")
    return splits, said


def hold_out(content: Content) -> tuple[Content, Content]:
    """Draw a share of the images for validation, always the same ones.

    A class never loses its last training image to validation.

    Raises:
        UserError: fewer than two images, or none can be spared.
    """
    labels: dict[Any, set] = defaultdict(set)
    for annotation in content["annotations"]:
        labels[annotation["image_id"]].add(annotation["category_id"])
    image_ids = [x["id"] for x in sorted(content["images"], key=lambda x: x["file_name"])]
    random.Random(SEED).shuffle(image_ids)
    wanted = max(1, round(VALIDATION_SHARE * len(image_ids)))
    left = Counter(label for image_id in image_ids for label in labels[image_id])
    held_out: set = set()
    for image_id in image_ids:
        if len(held_out) == wanted or len(image_ids) < 2:
            break
        if all(left[label] > 1 for label in labels[image_id]):
            held_out.add(image_id)
            left.subtract(labels[image_id])
    if not held_out:
        raise UserError(
            f"The dataset has {len(image_ids)} images, of which none can be held out for "
            "validation without losing a class. Add images, or give those for validation "
            "by --val."
        )
    return _select(content, held_out, inside=False), _select(content, held_out, inside=True)


def merge(train: Content, val: Content) -> Content:
    """Join two splits; ids of the second one are renumbered where they must be."""
    image_ids = {x["id"] for x in train["images"]}
    taken = image_ids & {x["id"] for x in val["images"]}
    shift = max(image_ids) + 1 if taken else 0
    new_ids = {image["id"]: image["id"] + shift for image in val["images"]}
    images = [{**image, "id": new_ids[image["id"]]} for image in val["images"]]
    # An annotation of no image keeps its image's id as a text, for a number might be another's.
    annotations = [
        {**annotation, "image_id": new_ids.get(annotation["image_id"], str(annotation["image_id"]))}
        for annotation in val["annotations"]
    ]
    joined = [*train["annotations"], *annotations]
    return {
        "images": [*train["images"], *images],
        "annotations": [{**x, "id": index} for index, x in enumerate(joined, start=1)],
        "categories": train["categories"],
    }


def _select(content: Content, image_ids: set, inside: bool) -> Content:
    return {
        "images": [x for x in content["images"] if (x["id"] in image_ids) == inside],
        # An annotation of no image stays in training, where the checks find it.
        "annotations": [
            x for x in content["annotations"] if (x["image_id"] in image_ids) == inside
        ],
        "categories": content["categories"],
    }


def _with_classes_of(train: Content, other: Content, split: str) -> Content:
    """Give a split the category ids of training, found by the classes' names."""
    train_names = [category["name"] for category in train["categories"]]
    train_ids = {category["name"]: category["id"] for category in train["categories"]}
    names = {x["id"]: x["name"] for x in other["categories"]}
    foreign = Counter(
        names[x["category_id"]]
        for x in other["annotations"]
        if names.get(x["category_id"], "") not in ("", *train_ids)
    )
    if foreign:
        listed = ", ".join(f"{name!r} ({count} objects)" for name, count in foreign.most_common(5))
        raise UserError(
            f"The {split} split has classes that training does not: {listed}. The classes of "
            f"training are {', '.join(map(repr, train_names))}. Correct the names (texts that "
            "differ, of which capitals and plurals count), or add such objects to the training "
            "split."
        )
    new_ids = {old: train_ids[name] for old, name in names.items() if name in train_ids}
    annotations = [
        {**x, "category_id": new_ids.get(x["category_id"], x["category_id"])}
        for x in other["annotations"]
    ]
    return {**other, "annotations": annotations, "categories": train["categories"]}
