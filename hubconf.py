"""Models by name for torch.hub: ``torch.hub.load(REPOSITORY, "detr_r50", pretrained=True)``."""

from d2detr import hub as _hub

dependencies = ["torch", "torchvision", "detectron2"]

globals().update(_hub.entry_points())
