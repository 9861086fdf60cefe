import logging

from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    get_event_storage,
)
from fvcore.common.history_buffer import HistoryBuffer

_METRICS = {"class_error": "%", "cardinality_error": " objects"}
_WINDOW = 20


class ErrorPrinter(EventWriter):
    """Logs the errors that are not losses, which Detectron2's printer leaves out.

    They are ``class_error``, the share of matched queries with a wrong class, and
    ``cardinality_error``, by how many objects the predicted number of an image is off: medians of
    the last 20 iterations.
    """

    def __init__(self):
        self._logger = logging.getLogger(__name__)

    def write(self) -> None:
        storage = get_event_storage()
        errors = [
            f"{name}: {history.median(_WINDOW):.4g}{_METRICS[name]}"
            for name, history in storage.histories().items()
            if name in _METRICS
        ]
        if errors:
            self._logger.info(f" iter: {storage.iter}  {'  '.join(errors)}")


class TrainingPrinter(CommonMetricPrinter):
    """Detectron2's printer, without repeating in each of its lines the losses of validation."""

    def write(self) -> None:
        with _OfTraining(get_event_storage()):
            super().write()


class _OfTraining(EventStorage):
    """What another storage holds, but for what has the prefix of a dataset."""

    def __init__(self, storage: EventStorage):
        self.__dict__.update(vars(storage))

    def histories(self) -> dict[str, HistoryBuffer]:
        found = super().histories()
        return {name: history for name, history in found.items() if "/" not in name}
