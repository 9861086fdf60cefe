"""Data: augmentation, mapping to the model's input, checks, and the embedded dataset.

Importing this package registers ``shapes_train``, ``shapes_val`` and their panoptic variants.
"""

from d2detr.data.augmentation import ResizeShortSide, build_augmentation, short_side_shape
from d2detr.data.auto import register_auto_dataset
from d2detr.data.build import build_dataset_mapper
from d2detr.data.checks import check_annotations, check_datasets, check_on_main_process
from d2detr.data.classes import (
    check_num_classes,
    resolve_class_names,
    resolve_num_classes,
    write_categories,
)
from d2detr.data.dataset_mapper import DetrDatasetMapper, annotations_to_instances
from d2detr.data.loader import ResumableTrainLoader, in_batches
from d2detr.data.shapes_dataset import ShapesSplit, register_shapes, register_shapes_split

__all__ = [
    "DetrDatasetMapper",
    "ResizeShortSide",
    "ResumableTrainLoader",
    "ShapesSplit",
    "annotations_to_instances",
    "build_augmentation",
    "build_dataset_mapper",
    "check_annotations",
    "check_datasets",
    "check_num_classes",
    "check_on_main_process",
    "in_batches",
    "register_auto_dataset",
    "register_shapes",
    "register_shapes_split",
    "resolve_class_names",
    "resolve_num_classes",
    "short_side_shape",
    "write_categories",
]

register_shapes()
