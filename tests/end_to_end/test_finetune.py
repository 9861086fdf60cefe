"""Fine-tuning by several processes that torchrun has started."""

import json

from tests.dataset_trees import FORMATS, two_splits
from tests.end_to_end.test_train_net import ROOT, run_tool

SMALL = {
    "SOLVER.MAX_ITER": "2",
    "SOLVER.IMS_PER_BATCH": "4",
    "DATALOADER.NUM_WORKERS": "0",
    "MODEL.DETR.HIDDEN_DIM": "32",
    "TEST.EVAL_PERIOD": "0",
}


def test_processes_of_torchrun_are_one_run(tmp_path):
    FORMATS["yolo"](tmp_path / "data", two_splits())
    config_file = ROOT / "configs" / "quickstart.yaml"
    finished = run_tool(
        "finetune.py",
        tmp_path,
        *("--data", "data", "--output", "output", "--weights", ""),
        *("--config-file", config_file, *(x for pair in SMALL.items() for x in pair)),
        launcher=("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    )
    assert finished.returncode == 0, finished.stderr
    output = tmp_path / "output"
    assert json.loads((output / "results.json").read_text())["bbox"]
    for name, rank in (("log.txt", 0), ("log.txt.rank1", 1)):
        log = (output / name).read_text()
        assert f"Process {rank} of 2." in log
