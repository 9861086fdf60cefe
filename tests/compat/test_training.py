import subprocess
import sys
from pathlib import Path

import torch

import d2detr

# isort: split
from detectron2.engine import SimpleTrainer, hooks


class Model(torch.nn.Linear):
    def forward(self, batch):
        return {"loss": super().forward(batch).mean()}


def trainer_with_schedule():
    model = Model(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2)
    trainer = SimpleTrainer(model, [torch.ones(1, 2)] * 3, optimizer)
    trainer.register_hooks([hooks.LRScheduler(optimizer, scheduler)])
    return trainer, scheduler


def test_schedulers_of_torch_are_resumed():
    first, scheduler = trainer_with_schedule()
    first.train(0, 3)
    resumed, resumed_scheduler = trainer_with_schedule()
    resumed.load_state_dict(first.state_dict())
    assert scheduler.last_epoch == resumed_scheduler.last_epoch == 3
    assert resumed_scheduler.get_last_lr() == scheduler.get_last_lr() == [0.1]


WORKS_ALONE = """
import sys
import time
from datetime import timedelta
from pathlib import Path

import d2detr
from detectron2.engine import launch
from detectron2.utils import comm
from torch import distributed


def main(folder):
    for group in (comm._LOCAL_PROCESS_GROUP, distributed.group.WORLD):
        distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=1), group)
    if not comm.is_main_process():
        time.sleep(3)
        Path(folder, "finished").touch()


if __name__ == "__main__":
    launch(main, 2, dist_url="auto", args=(sys.argv[1],))
"""


def test_a_process_may_work_alone_for_longer_than_the_groups_time_out(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(WORKS_ALONE)
    environment = {"PYTHONPATH": str(Path(d2detr.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, script, tmp_path], env=environment, check=True, timeout=120)
    assert (tmp_path / "finished").exists()
