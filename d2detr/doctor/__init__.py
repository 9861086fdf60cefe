"""What can be wrong with a dataset: checks before training, the report, and corrections."""

from d2detr.doctor.dataset_check import check_dataset
from d2detr.doctor.dataset_fix import fix_dataset
from d2detr.doctor.examination import examine
from d2detr.doctor.preflight import check_datasets

__all__ = [
    "check_dataset",
    "check_datasets",
    "examine",
    "fix_dataset",
]
