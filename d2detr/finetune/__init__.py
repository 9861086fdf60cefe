"""From a folder of images to a trained model."""

from d2detr.finetune.finetuning import FinetuneTrainer, plan_finetuning, run_finetuning

__all__ = ["FinetuneTrainer", "plan_finetuning", "run_finetuning"]
