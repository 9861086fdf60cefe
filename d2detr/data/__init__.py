"""From a dataset's record to a batch: augmentation, mapper, loader."""

from d2detr.data.augmentation import ResizeShortSide, build_augmentation, short_side_shape
from d2detr.data.dataset_mapper import (
    DetrDatasetMapper,
    annotations_to_instances,
    build_dataset_mapper,
)
from d2detr.data.loader import ResumableTrainLoader, in_batches
from d2detr.data.randomness import seed_random_numbers, unchanged_random_numbers

# Where these were before they got a room of their own.
from d2detr.datasets import (
    ShapesSplit,
    register_auto_dataset,
    register_shapes,
    register_shapes_split,
    resolve_num_classes,
)

__all__ = [
    "DetrDatasetMapper",
    "ResizeShortSide",
    "ResumableTrainLoader",
    "ShapesSplit",
    "annotations_to_instances",
    "build_augmentation",
    "build_dataset_mapper",
    "in_batches",
    "register_auto_dataset",
    "register_shapes",
    "register_shapes_split",
    "resolve_num_classes",
    "seed_random_numbers",
    "short_side_shape",
    "unchanged_random_numbers",
]
