"""Show where a model looks in an image, as a page to click on and as pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from d2detr.cli.arguments import add_overrides, positive_number, score

if TYPE_CHECKING:
    from d2detr.predict.predictor import Predictor
    from d2detr.visualization import Predictions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", required=True, help="YAML file, name of a config, or folder of a run"
    )
    parser.add_argument("--input", required=True, help="image")
    parser.add_argument("--output", default="output/explain", help="folder for the results")
    parser.add_argument("--png", action="store_true", help="write encoder.png and decoder.png, too")
    parser.add_argument(
        "--dataset", metavar="NAME", help="write queries.png, too: what each query predicts in it"
    )
    parser.add_argument(
        "--num-images",
        type=positive_number,
        default=500,
        help="of the dataset, evenly spread (default: %(default)s)",
    )
    parser.add_argument("--weights", help="default: those of the run, or MODEL.WEIGHTS")
    parser.add_argument("--confidence-threshold", type=score, default=0.5, help="lowest score")
    add_overrides(parser)


def main(args: argparse.Namespace) -> None:
    from d2detr.datasets.catalog import load_dataset
    from d2detr.predict.predictor import Predictor, read_rgb
    from d2detr.visualization import (
        draw_decoder_attention,
        draw_encoder_attention,
        draw_queries,
        explain,
        tally_queries,
        write_attention_page,
    )

    records = load_dataset(args.dataset) if args.dataset else []
    rgb = read_rgb(args.input)
    predictor = Predictor(args.config_file, args.weights, opts=args.opts)
    explanation = explain(
        predictor.model,
        predictor.prepare(rgb)["image"],
        predictor.cfg.INPUT.FORMAT,
        predictor.metadata.get("thing_classes"),
        args.confidence_threshold,
    )
    output = Path(args.output)
    write_attention_page(explanation, output / "explain.html", Path(args.input).name)
    if args.png:
        draw_encoder_attention(explanation, output / "encoder.png")
        draw_decoder_attention(explanation, output / "decoder.png")
    if records:
        count = min(len(records), args.num_images)
        chosen = [records[number * len(records) // count] for number in range(count)]
        tally = tally_queries(_predict(predictor, chosen), args.confidence_threshold)
        draw_queries(tally, explanation.class_names, output / "queries.png")
        print(f"Images of {args.dataset}: {count}. Queries that detect nothing: {tally.never or 0}")
    if not explanation.queries:
        print(explanation.nothing_found)
    print(f"Results: {output}")


def _predict(predictor: Predictor, records: list[dict]) -> Iterator[Predictions]:
    from d2detr.predict.predictor import read_rgb
    from d2detr.visualization import layer_predictions

    for record in records:
        image = predictor.prepare(read_rgb(record["file_name"]))["image"]
        yield layer_predictions(predictor.model, image)
