from d2detr.lazy import lazy_config

config, model, optimizer, lr_multiplier, dataloader, train = lazy_config(
    "deformable_detr_r50_two_stage.yaml"
)
