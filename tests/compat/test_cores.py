import os

import pytest

from d2detr.compat import usable_cores
from d2detr.finetune.recipe import apply_recipe


def test_the_recipe_counts_cores_where_the_system_cannot_tell_which_may_be_used(
    monkeypatch, tiny_cfg
):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # as on macOS
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    choices = apply_recipe(tiny_cfg, 100, 5, 10, pretrained=True)
    assert {x.key: x.value for x in choices}["DATALOADER.NUM_WORKERS"] == 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process")
def test_cores_that_are_not_for_this_process_do_not_count():
    cores = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(cores)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, cores)
