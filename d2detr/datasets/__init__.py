"""What a dataset is: its registration, recognition, classes, and the embedded one.

Importing this package registers ``shapes_train``, ``shapes_val`` and their panoptic variants.
"""

from d2detr.datasets.auto import register_auto_dataset, resolve_auto_names
from d2detr.datasets.categories import (
    check_num_classes,
    resolve_num_classes,
    write_categories,
)
from d2detr.datasets.shapes_dataset import ShapesSplit, register_shapes, register_shapes_split

__all__ = [
    "ShapesSplit",
    "check_num_classes",
    "register_auto_dataset",
    "register_shapes",
    "register_shapes_split",
    "resolve_num_classes",
    "write_categories",
]

register_shapes()
resolve_auto_names()
