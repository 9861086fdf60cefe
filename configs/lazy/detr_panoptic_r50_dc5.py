from d2detr.lazy import lazy_config

config, model, optimizer, lr_multiplier, dataloader, train = lazy_config(
    "detr_panoptic_r50_dc5.yaml"
)
