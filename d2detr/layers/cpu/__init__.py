"""What makes a network faster on a CPU without changing its results, applied when it is built."""

from d2detr.layers.cpu.speed_up import speed_up

__all__ = ["speed_up"]
