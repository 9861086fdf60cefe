import logging

from detectron2.utils.events import EventWriter, get_event_storage

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
