from d2detr.lazy import lazy_config

config, model, optimizer, lr_multiplier, dataloader, train = lazy_config(
    "dino_swin_t_4scale_12ep.yaml"
)
