from d2detr.config import load_config
from d2detr.engine.evaluating import evaluate
from d2detr.engine.launch import default_argument_parser, exit_on_user_error, run, setup
from d2detr.engine.trainer import Trainer
from d2detr.solver import (
    build_optimizer,
    clip_full_model_gradients,
    maybe_add_gradient_clipping,
)

__all__ = [
    "Trainer",
    "build_optimizer",
    "clip_full_model_gradients",
    "default_argument_parser",
    "evaluate",
    "exit_on_user_error",
    "load_config",
    "maybe_add_gradient_clipping",
    "run",
    "setup",
]
