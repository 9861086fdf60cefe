"""Write a model to a file that runs without PyTorch or without Detectron2, and prove that it does.

The output is a folder with the model and run_detr.py, which runs it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from d2detr.cli.arguments import add_overrides, positive_number, score

if TYPE_CHECKING:
    import numpy as np

    from d2detr.predict.predictor import Predictor

FORMATS = ("onnx", "torch_export", "torchscript")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", required=True, help="YAML file, name of a config, or folder of a run"
    )
    parser.add_argument("--weights", help="default: those of the run, or MODEL.WEIGHTS")
    parser.add_argument("--output", default="output/export", help="folder for the files")
    parser.add_argument("--format", choices=FORMATS, default="onnx")
    parser.add_argument("--confidence-threshold", type=score, default=0.5, help="lowest score")
    parser.add_argument("--sample-image", help="to prove with; default: noise")
    parser.add_argument("--bound", type=float, help="largest difference from PyTorch")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--calibration", metavar="DATASET", help="for int8, which is judged by its AP"
    )
    parser.add_argument("--calibration-images", type=positive_number, default=32)
    parser.add_argument("--evaluation-images", type=positive_number, help="default: all")
    parser.add_argument(
        "--optimize", action="store_true", help="choose the faster of onnxruntime and OpenVINO"
    )
    parser.add_argument("--rounds", type=positive_number, default=5, help="of the timing")
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    import numpy as np

    from d2detr.export.cost import faster_runtime, measure_cost
    from d2detr.export.exporting import choose_runtime, export_model
    from d2detr.export.proof import BOUNDS
    from d2detr.export.quantization import quantize
    from d2detr.predict.predictor import Predictor, read_rgb

    is_int8 = args.precision == "int8"
    check_combination(args)
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3), np.uint8)
    if args.sample_image:
        picture = read_rgb(args.sample_image)
    predictor = Predictor(
        args.config_file,
        args.weights,
        score_threshold=args.confidence_threshold,
        device="cpu",
        opts=args.opts,
    )
    precision = "fp32" if is_int8 else args.precision
    path = export_model(predictor, args.output, format=args.format, precision=precision)
    print_proof(predictor, path, picture, BOUNDS[precision] if args.bound is None else args.bound)
    if is_int8:
        print(
            quantize(path, args.calibration, args.calibration_images, args.evaluation_images or 0)
        )
    if args.optimize:
        runtime, seconds = faster_runtime(path, picture, args.rounds)
        choose_runtime(path, runtime)
        timings = ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
        print(f"{timings}: the runner takes {runtime}.")
    cost = measure_cost(predictor, path, picture, args.rounds)
    for name, timing in cost.seconds.items():
        milliseconds = [1000 * value for value in (timing.median, timing.low, timing.high)]
        print(
            "{:>8}: {:.1f} ms an image ({:.1f} to {:.1f}), peak memory {:.0f} MiB".format(
                name, *milliseconds, cost.peak_mib[name]
            )
        )
    print(f"Written {path} ({path.stat().st_size / 2**20:.1f} MiB).")


def check_combination(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is built."""
    from d2detr.errors import UserError

    if args.precision == "int8" and (args.format != "onnx" or not args.calibration):
        raise UserError("--precision int8 needs --format onnx and --calibration DATASET.")
    if args.optimize and args.format != "onnx":
        raise UserError("--optimize chooses a runtime of --format onnx; others run in torch.")


def print_proof(predictor: Predictor, path: Path, picture: np.ndarray, bound: float) -> None:
    """Print how far the file is from PyTorch, and fail where that is too far."""
    from d2detr.errors import UserError
    from d2detr.export.exporting import prove

    differences, _ = prove(predictor, path, picture, bound)
    for name, difference in differences.items():
        masks = "" if difference.masks is None else f", masks {difference.masks:.2e} of pixels"
        print(
            f"{name:>12}: largest difference of scores {difference.score:.2e}, of boxes "
            f"{difference.box:.2e} of the image{masks}"
        )
    wrong = [name for name, difference in differences.items() if difference.largest > bound]
    if wrong:
        raise UserError(
            f"{path} is not what PyTorch computes: {', '.join(wrong)} differ by more than {bound}. "
            "Do not use it."
        )
