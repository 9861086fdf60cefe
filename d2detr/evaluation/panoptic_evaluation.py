from __future__ import annotations

import functools
import itertools
import json
import logging
import os
from collections import OrderedDict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from PIL import Image
from tabulate import tabulate

from d2detr.compat import usable_cores
from d2detr.datasets.panoptic import read_segment_ids
from d2detr.errors import UserError
from d2detr.evaluation.panoptic_quality import PanopticQuality
from d2detr.files import replacing, write_json
from d2detr.progress import progress

_IMAGES_PER_TASK = 50
# To start a process takes as long as to compare some hundred images.
_IMAGES_PER_PROCESS = 500

logger = logging.getLogger(__name__)


class PanopticEvaluator(DatasetEvaluator):
    """Panoptic quality of ``panoptic_seg``, without ``panopticapi``.

    Every image is written at once, so that memory does not grow: ``panoptic/*.png`` and
    ``panoptic.json`` in the output directory are in the format of a COCO submission. Each worker
    evaluates the images that it predicted, if there are many in several processes. Images that
    were not predicted do not count. Files are called like those of the truth; where it names them
    by paths from outside its folder, the predictions have their base names.

    Args:
        dataset_name: a registered panoptic dataset; ``panoptic_json`` and ``panoptic_root`` of its
            metadata are the truth.
        output_dir: where predictions are written.
        num_processes: per worker; None takes up to 8, as many as there are CPU cores.

    Raises:
        UserError: ``panoptic_json`` is not in COCO's panoptic format, or the predictions would be
            written over the truth.
    """

    def __init__(self, dataset_name: str, output_dir: str, num_processes: int | None = None):
        self._metadata = MetadataCatalog.get(dataset_name)
        self._directory = Path(output_dir)
        truth, _ = _read_truth(self._metadata.panoptic_json)
        self._file_names = _names_of_predictions(truth)
        if Path(self._metadata.panoptic_root).resolve() == (self._directory / "panoptic").resolve():
            raise UserError(
                f"The true segmentations of {dataset_name} are in {self._directory / 'panoptic'}, "
                "where the predictions would overwrite them. Choose another OUTPUT_DIR."
            )
        self._num_processes = num_processes or min(8, usable_cores())
        # Apart, because some models number stuff for itself.
        self._thing_ids, self._stuff_ids = (
            {contiguous: category_id for category_id, contiguous in ids.items()}
            for ids in (
                self._metadata.thing_dataset_id_to_contiguous_id,
                self._metadata.stuff_dataset_id_to_contiguous_id,
            )
        )

    def reset(self) -> None:
        self._predictions: list[dict[str, Any]] = []
        (self._directory / "panoptic").mkdir(parents=True, exist_ok=True)

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        for x, output in zip(inputs, outputs, strict=True):
            if "panoptic_seg" not in output:
                raise UserError(
                    "Panoptic quality needs a model that gives 'panoptic_seg': set MODEL.MASK_ON "
                    "and MODEL.DETR.TEST.PANOPTIC_ON to True, with weights that have a mask head."
                )
            ids, segments = output["panoptic_seg"]
            if x["image_id"] not in self._file_names:
                raise UserError(f"{self._metadata.panoptic_json} has no image {x['image_id']}.")
            file_name = self._file_names[x["image_id"]]
            _write_segment_ids(self._directory / "panoptic" / file_name, ids.cpu().numpy())
            self._predictions.append(
                {
                    "image_id": x["image_id"],
                    "file_name": file_name,
                    "segments_info": [
                        {"id": s["id"], "category_id": self._dataset_id(s)} for s in segments
                    ],
                }
            )

    def _dataset_id(self, segment: dict[str, Any]) -> int:
        ids = self._thing_ids if segment["isthing"] else self._stuff_ids
        return ids[segment["category_id"]]

    def evaluate(self) -> OrderedDict | None:
        """Compare with the truth; the main process returns the metrics in percent."""
        quality = evaluate_panoptic_files(
            self._metadata.panoptic_json,
            self._metadata.panoptic_root,
            self._predictions,
            self._directory / "panoptic",
            num_processes=self._num_processes,
        )
        counts = comm.gather(quality.counts)
        predictions = comm.gather(self._predictions)
        if not comm.is_main_process():
            return None
        quality.counts = sum(counts)
        content = {"annotations": list(itertools.chain(*predictions))}
        write_json(self._directory / "panoptic.json", content)
        return OrderedDict(panoptic_seg=self._summarize(quality))

    def _summarize(self, quality: PanopticQuality) -> dict[str, float]:
        things = self._metadata.thing_dataset_id_to_contiguous_id
        stuff = self._metadata.stuff_dataset_id_to_contiguous_id
        means = {"": quality.mean(), "_th": quality.mean(things), "_st": quality.mean(stuff)}
        rows = [
            [label, *(100 * mean[key] for key in ("PQ", "SQ", "RQ")), mean["n"]]
            for label, mean in zip(("all", "things", "stuff"), means.values(), strict=True)
        ]
        headers = ["", "PQ", "SQ", "RQ", "categories"]
        table = tabulate(rows, headers=headers, tablefmt="pipe", floatfmt=".3f")
        logger.info(f"Panoptic quality:\n{table}")

        results = {
            f"{key}{suffix}": 100 * mean[key]
            for suffix, mean in means.items()
            for key in ("PQ", "SQ", "RQ")
        }
        names = self._metadata.get("thing_classes"), self._metadata.get("stuff_classes")
        for category_id, values in quality.per_category().items():
            is_stuff = category_id in stuff
            contiguous = (stuff if is_stuff else things)[category_id]
            percent = 100 * values["PQ"] if values else float("nan")
            results[f"PQ-{names[is_stuff][contiguous]}"] = percent
        return results


def evaluate_panoptic_files(
    true_json: str,
    true_directory: str | Path,
    predictions: list[dict[str, Any]],
    directory: str | Path,
    *,
    num_processes: int = 1,
) -> PanopticQuality:
    """Compare predictions with the truth of the same images, with a progress bar.

    Args:
        true_json: in COCO's panoptic format.
        true_directory: holds the PNGs of ``true_json``.
        predictions: ``image_id``, ``file_name`` and ``segments_info`` of each image.
        directory: holds the PNGs of ``predictions``.
        num_processes: how many images are compared at the same time.

    Raises:
        UserError: a PNG cannot be read, a prediction is for an unknown image, or pixels and
            segments do not fit together.
    """
    truth, category_ids = _read_truth(true_json)
    quality = PanopticQuality(category_ids)
    for prediction in predictions:
        if prediction["image_id"] not in truth:
            raise UserError(f"{true_json} has no image {prediction['image_id']}.")
    pairs = [(truth[prediction["image_id"]], prediction) for prediction in predictions]
    tasks = [pairs[i : i + _IMAGES_PER_TASK] for i in range(0, len(pairs), _IMAGES_PER_TASK)]
    compare = functools.partial(
        _compare_files, quality.category_ids, Path(true_directory), Path(directory)
    )
    num_processes = min(num_processes, len(pairs) // _IMAGES_PER_PROCESS)
    with progress(len(pairs), "Panoptic quality", "images") as bar:
        if num_processes > 1:
            # Started like the data loader's. Spawning would run a script without a guard again.
            with ProcessPoolExecutor(num_processes) as executor:
                for task, counts in zip(tasks, executor.map(compare, tasks), strict=True):
                    quality.counts += counts
                    bar.update(len(task))
        else:
            for task in tasks:
                quality.counts += compare(task)
                bar.update(len(task))
    return quality


def _read_truth(file_name: str) -> tuple[dict[int, dict[str, Any]], list[int]]:
    """Read a panoptic JSON: its annotations by image id, and its category ids."""
    content = json.loads(Path(file_name).read_text())
    for key in ("annotations", "categories"):
        if not isinstance(content.get(key), list):
            raise UserError(f"{file_name} is not in COCO's panoptic format: it has no {key!r}.")
    annotations = {annotation["image_id"]: annotation for annotation in content["annotations"]}
    return annotations, [category["id"] for category in content["categories"]]


def _names_of_predictions(truth: dict[int, dict[str, Any]]) -> dict[int, str]:
    """Name the file of each image's prediction, below the folder of the predictions."""
    names: dict[int, str] = {}
    taken = set()
    for image_id, annotation in truth.items():
        path = Path(os.path.normpath(annotation["file_name"]))
        name = path.name if path.is_absolute() or ".." in path.parts else str(path)
        if name in taken:
            name = f"{image_id}_{path.name}"
        taken.add(name)
        names[image_id] = name
    return names


def _compare_files(
    category_ids: list[int], true_directory: Path, directory: Path, pairs: list[tuple[dict, dict]]
) -> np.ndarray:
    quality = PanopticQuality(category_ids)
    for truth, prediction in pairs:
        quality.add(
            read_segment_ids(str(true_directory / truth["file_name"])),
            truth["segments_info"],
            read_segment_ids(str(directory / prediction["file_name"])),
            prediction["segments_info"],
            name=str(prediction["image_id"]),
        )
    return quality.counts


def _write_segment_ids(file: Path, ids: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)  # the truth may be in several folders
    colors = np.stack((ids, ids >> 8, ids >> 16), axis=-1).astype(np.uint8)
    with replacing(file, durable=False) as partial:
        Image.fromarray(colors).save(partial)
