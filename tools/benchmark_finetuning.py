#!/usr/bin/env python
"""Show what fine-tuning is worth: a trained model against one from scratch, equally long.

Draws a small dataset whose classes are the colours of the shapes, which the quick start's model has
never been told, and trains on it twice with the same recipe.
"""

import argparse
import colorsys
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import d2detr  # noqa: F401 before anything of Detectron2
from d2detr.cli.arguments import positive_number
from d2detr.datasets.shapes import draw_shapes_image
from d2detr.engine import exit_on_user_error
from d2detr.finetune.finetuning import plan_finetuning, run_finetuning

# Upper bounds of the hues, in [0, 1]; what is above the last one is red again.
HUES = {"red": 0.05, "yellow": 0.2, "green": 0.45, "blue": 0.7, "purple": 0.92}
SIZE = 128


def draw_dataset(root: Path, num_train: int, num_val: int) -> None:
    categories = [{"id": index + 1, "name": name} for index, name in enumerate(HUES)]
    for split, count in (("train", num_train), ("val", num_val)):
        folder = root / split
        folder.mkdir(parents=True, exist_ok=True)
        images, annotations = [], []
        for index in range(count):
            # Seeds that the embedded dataset does not use.
            shapes = draw_shapes_image([77, len(split), index], SIZE)
            name = f"{index:04d}.jpg"
            Image.fromarray(shapes.image).save(folder / name, quality=95, subsampling=0)
            images.append({"id": index + 1, "file_name": name, "width": SIZE, "height": SIZE})
            for mask in shapes.masks:
                rows, columns = np.nonzero(mask)
                corner = columns.min(), rows.min()
                size = columns.max() - columns.min() + 1, rows.max() - rows.min() + 1
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": index + 1,
                        "category_id": color_of(shapes.image[mask]) + 1,
                        "bbox": [float(x) for x in (*corner, *size)],
                        "area": float(size[0] * size[1]),
                        "iscrowd": 0,
                    }
                )
        content = {"images": images, "annotations": annotations, "categories": categories}
        (folder / "annotations.json").write_text(json.dumps(content))


def color_of(pixels: np.ndarray) -> int:
    """Return the index of the colour of pixels (N, 3)."""
    hue, _, _ = colorsys.rgb_to_hsv(*np.median(pixels, axis=0) / 255)
    return next((i for i, bound in enumerate(HUES.values()) if hue < bound), 0)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="output/quickstart", help="folder of a run")
    parser.add_argument("--output", default="output/benchmark_finetuning")
    parser.add_argument("--train-images", type=positive_number, default=200)
    parser.add_argument("--val-images", type=positive_number, default=100)
    parser.add_argument("--iterations", type=positive_number, default=300)
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="KEY VALUE pairs of the config")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    output = Path(args.output)
    draw_dataset(output / "data", args.train_images, args.val_images)
    results = {}
    for name, weights in (("fine-tuned", args.weights), ("from scratch", "")):
        options = argparse.Namespace(
            data=str(output / "data"),
            val=None,
            weights=weights,
            config_file=str(Path(args.weights, "config.yaml")),
            output=str(output / name.replace(" ", "_")),
            resume=False,
            overwrite=True,
            opts=["SOLVER.MAX_ITER", str(args.iterations), "SEED", "1", *args.opts],
        )
        results[name] = run_finetuning(plan_finetuning(options))["bbox"]
    for name, metrics in results.items():
        print(f"{name}: AP {metrics['AP']:.1f}, AP50 {metrics['AP50']:.1f}")


if __name__ == "__main__":
    with exit_on_user_error():
        sys.exit(main(parse_args()))
