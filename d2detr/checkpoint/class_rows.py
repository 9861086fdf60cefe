"""Which rows of a class head carry over to a model of other classes."""

import re
from collections.abc import Sequence

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

ClassNames = Sequence[str | None]

# COCO's names of the classes that Pascal VOC names otherwise.
_SYNONYMS = {
    "aeroplane": "airplane",
    "motorbike": "motorcycle",
    "sofa": "couch",
    "tvmonitor": "tv",
}


def _by_category_id(count: int, things_only: bool) -> list[str | None]:
    names: list[str | None] = [None] * count
    for category in COCO_CATEGORIES:
        if category["id"] < count and (category["isthing"] or not things_only):
            names[category["id"]] = category["name"]
    return names


_THINGS = [x["name"] for x in COCO_CATEGORIES if x["isthing"]]
_STUFF = [x["name"] for x in COCO_CATEGORIES if not x["isthing"]]
# A head of so many classes is taken for COCO's: category ids, as the original release trains on,
# or Detectron2's contiguous classes.
_COCO_CLASSES: dict[int, list[str | None]] = {
    91: _by_category_id(91, things_only=True),
    250: _by_category_id(250, things_only=False),
    len(_THINGS): _THINGS,
    len(_THINGS + _STUFF): _THINGS + _STUFF,
}


def known_names(names: Sequence[str] | None) -> Sequence[str] | None:
    """Return ``names``, or None if they are the placeholders that transformers fills in."""
    if not names or all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    return names


def names_of_classes(count: int, names: Sequence[str] | None) -> ClassNames | None:
    """Return the names of ``count`` classes, None where a class has none.

    Args:
        count: classes of a head, without no-object.
        names: what is known of them; COCO's are assumed where nothing is and ``count`` is one of
            COCO's numbers.

    Returns:
        None where the classes are unknown.
    """
    if names is not None and len(names) == count:
        return names
    return _COCO_CLASSES.get(count)


def match_classes(wanted: ClassNames, given: ClassNames) -> dict[int, int]:
    """Match classes by name, regardless of case, spaces and the variants of Pascal VOC.

    Returns:
        For each wanted class that is given, its index there.
    """
    index = {_simplify(name): i for i, name in reversed(list(enumerate(given))) if name}
    return {
        i: index[_simplify(name)]
        for i, name in enumerate(wanted)
        if name and _simplify(name) in index
    }


def _simplify(name: str) -> str:
    name = re.sub(r"[\s_-]", "", name.lower())
    return _SYNONYMS.get(name, name)
