#!/usr/bin/env python
"""Train or evaluate a model; the arguments are those of Detectron2's own train_net.py."""

import argparse

from d2detr.engine import Trainer, default_argument_parser, evaluate, run, setup


def parse_args() -> argparse.Namespace:
    return default_argument_parser().parse_args()


def main(args: argparse.Namespace) -> None:
    """Do what the command line asks for, in each worker."""
    cfg = setup(args)
    if args.eval_only:
        evaluate(cfg, resume=args.resume)
        return
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    trainer.train()


if __name__ == "__main__":
    run(main, parse_args())
