import re

from d2detr.measure.hooks import STEP, format_hooks, measure_hooks


def test_hooks_of_a_training_are_measured(tiny_cfg):
    tiny_cfg.DATASETS.TRAIN, tiny_cfg.DATASETS.TEST = ("shapes_val",), ("shapes_val",)
    tiny_cfg.SOLVER.IMS_PER_BATCH = 1
    tiny_cfg.SOLVER.EMA_DECAY = 0.9
    tiny_cfg.TEST.LOSS_PERIOD = 3
    before = tiny_cfg.clone()
    seconds = measure_hooks(tiny_cfg, blocks=1, warmup=0)
    assert tiny_cfg == before
    assert {STEP, "WeightAveraging", "ValidationLosses", "PeriodicWriter"} <= seconds.keys()
    assert seconds[STEP] > seconds["WeightAveraging"] > seconds["ValidationLosses"] > 0


def test_table_adds_up_and_is_sorted():
    table = format_hooks({STEP: 0.1, "Cheap": 1e-5, "Dear": 2e-4})
    assert re.findall(r"(\w[\w ]*\w) +([\d.]+) us +([\d.]+)%", table) == [
        ("Dear", "200.0", "0.200"),
        ("Cheap", "10.0", "0.010"),
        ("all hooks", "210.0", "0.210"),
    ]
