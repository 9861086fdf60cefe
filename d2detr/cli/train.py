"""Train or evaluate a model; the arguments are those of Detectron2's own train_net.py."""

import argparse

from d2detr.cli.arguments import Override, add_launch_arguments, add_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_config_arguments(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the run in OUTPUT_DIR")
    parser.add_argument("--eval-only", action="store_true", help="evaluate, do not train")
    add_launch_arguments(parser)
    add_overrides(parser)


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-file", default="", metavar="FILE", help="YAML file, or the name of a config"
    )
    parser.add_argument(
        "--weights", action=Override, const="MODEL.WEIGHTS", help="sets MODEL.WEIGHTS"
    )
    parser.add_argument("--output", action=Override, const="OUTPUT_DIR", help="sets OUTPUT_DIR")


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for, in each worker."""
    from d2detr.engine import Trainer, evaluate, setup

    cfg = setup(args)
    if args.eval_only:
        evaluate(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()
