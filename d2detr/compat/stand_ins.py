"""Stand-ins for modules that Detectron2 imports, but that cannot be imported."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from d2detr.compat.installed import mentions

# What 0.6 compiles, apart from the descriptions of its own compilation.
OPERATORS = (
    "COCOevalAccumulate",
    "COCOevalEvaluateImages",
    "ImageEvaluation",
    "InstanceAnnotation",
    "box_iou_rotated",
    "deform_conv_backward_filter",
    "deform_conv_backward_input",
    "deform_conv_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
)


def needed_stand_ins() -> dict[str, Callable[[ModuleType], None]]:
    """Maps each module that is to be replaced to the function that fills its replacement."""
    fill: dict[str, Callable[[ModuleType], None]] = {}
    if PathFinder.find_spec("detectron2._C", sys.modules["detectron2"].__path__) is None:
        fill["detectron2.evaluation.fast_eval_api"] = fill_fast_eval_api
        if not mentions("layers/deform_conv.py", "create_dummy_class"):  # main does without
            fill["detectron2._C"] = fill_compiled_extension
    if not mentions("export/__init__.py", "caffe2") and find_spec("caffe2") is None:
        fill["detectron2.export.api"] = fill_caffe2_export
    return fill


def needed_loans() -> dict[str, Callable[[], AbstractContextManager]]:
    """Maps each module to what has to be lent to it while it is being imported."""
    uses_it = mentions("model_zoo/model_zoo.py", "pkg_resources")
    if uses_it and find_spec("pkg_resources") is None:
        return {"detectron2.model_zoo.model_zoo": lend_pkg_resources}
    return {}


def fill_compiled_extension(module: ModuleType) -> None:
    """Nearly every module of 0.6 imports `detectron2._C`, which may not have been compiled."""

    def needs_extension(operator: str, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            f"'{operator}' needs Detectron2's compiled extension, which is not installed: build "
            "Detectron2 from its official sources to use this operator."
        )

    for name in OPERATORS:
        setattr(module, name, functools.partial(needs_extension, name))
    # Detectron2 lists these in every log.
    module.get_compiler_version = module.get_cuda_version = lambda: "not compiled"
    module.has_cuda = lambda: False
    # The only operator that is called past the module, so that it can be scripted.
    library = torch.library.Library("detectron2", "FRAGMENT")
    library.define("nms_rotated(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    fails = functools.partial(needs_extension, "nms_rotated")
    library.impl("nms_rotated", fails, "CompositeImplicitAutograd")
    module.torch_library = library  # torch forgets the operator without it


def fill_fast_eval_api(module: ModuleType) -> None:
    """COCOEvaluator's fast evaluation is part of the extension: faster-coco-eval replaces it."""
    from faster_coco_eval.core.faster_eval_api import COCOeval_faster
    from pycocotools.cocoeval import COCOeval

    class COCOeval_opt(COCOeval_faster):  # noqa: N801 (Detectron2's name)
        def __init__(self, cocoGt: Any, cocoDt: Any, iouType: str = "segm"):  # noqa: N803
            cocoGt.cat_img_map = cocoGt.catToImgs  # pycocotools' name for it
            super().__init__(cocoGt, cocoDt, iouType, print_function=print)
            self.params.catIds = sorted(cocoGt.getCatIds())  # for keypoints, only those in use

        def _prepare(self) -> None:
            """Rejects what pycocotools rejects, where faster-coco-eval assumes a value."""
            super()._prepare()
            needed = ["iscrowd"]
            if self.params.iouType == "keypoints":
                needed.append("num_keypoints")
            truth = self.cocoGt
            for annotation in truth.loadAnns(truth.getAnnIds(imgIds=self.params.imgIds)):
                has_area_range = len(self.params.areaRng) > 0 and not annotation.get("iscrowd")
                for field in [*needed, "area"] if has_area_range else needed:
                    if field not in annotation:
                        raise KeyError(f"Annotation {annotation['id']} has no '{field}'.")

        def summarize(self) -> None:
            """Prints and takes the means as pycocotools does, for any parameters."""
            COCOeval.summarize(self)

    module.COCOeval_opt = COCOeval_opt


def fill_caffe2_export(module: ModuleType) -> None:
    """0.6 imports caffe2, which torch 2.6 no longer brings, with all of `detectron2.export`."""


@contextlib.contextmanager
def lend_pkg_resources() -> Iterator[None]:
    """`model_zoo` finds its own folder with pkg_resources, which is gone since setuptools 82."""
    # Lent for this import only: other packages take its absence well, but not half of it.
    module = ModuleType("pkg_resources")
    module.resource_filename = lambda package, name: str(
        Path(sys.modules[package].__file__).parent / name
    )
    sys.modules["pkg_resources"] = module
    try:
        yield
    finally:
        del sys.modules["pkg_resources"]


def explain_missing_configs(model_zoo: ModuleType) -> None:
    """Of 0.6, pip installs no configs with the Python part, and `model_zoo` does not say so."""
    folder = Path(model_zoo.__file__).parent / "configs"
    find = model_zoo.get_config_file

    def get_config_file(config_path: str) -> str:
        if not folder.is_dir():
            raise RuntimeError(
                f"{config_path} is not there, because this Detectron2 was installed without the "
                "configs of its model zoo. In a checkout of d2detr 'bash tools/setup_env.sh' "
                f"installs them; or copy 'configs' of Detectron2's sources to {folder}."
            )
        return find(config_path)

    model_zoo.get_config_file = get_config_file
