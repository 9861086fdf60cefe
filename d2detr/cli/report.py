"""Write what there is to see of runs into one HTML file: curves, AP, mistakes, pictures, data."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument(
        "--output", help="default: report.html in the folder of the run, or here for several"
    )
    parser.add_argument(
        "--dataset", help="that was evaluated; default: what the config of the run says"
    )


def main(args: argparse.Namespace) -> None:
    from d2detr.report import write_report

    print(f"Written: {write_report(args.runs, args.output, dataset_name=args.dataset)}")
