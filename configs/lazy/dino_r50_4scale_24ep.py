from d2detr.lazy import lazy_config

config, model, optimizer, lr_multiplier, dataloader, train = lazy_config(
    "dino_r50_4scale_24ep.yaml"
)
