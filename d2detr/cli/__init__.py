"""The command ``d2detr``: what it takes, and what it calls."""
