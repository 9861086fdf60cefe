import os
import signal
import time
from pathlib import Path

import pytest
import torch

from d2detr.engine import Trainer, exit_on_user_error
from d2detr.engine.interruption import Interruption


@pytest.fixture
def cfg(shapes_cfg):
    shapes_cfg.SOLVER.MAX_ITER, shapes_cfg.SOLVER.STEPS = 5, ()
    shapes_cfg.DATALOADER.NUM_WORKERS = 1
    shapes_cfg.TEST.EVAL_PERIOD = 3
    return shapes_cfg


def train(cfg):
    torch.manual_seed(0)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    return trainer


def send_signal_in(name, number, at):
    """A trainer that gets a signal at the start of the method ``name`` in iteration ``at``."""

    class Interrupted(Trainer):
        pass

    def method(self, *args):
        if self.iter == at:
            os.kill(os.getpid(), number)
        return getattr(super(Interrupted, self), name)(*args)

    setattr(Interrupted, name, method)
    return Interrupted


def test_the_iteration_ends_and_is_saved(cfg):
    torch.manual_seed(0)
    trainer = send_signal_in("run_step", signal.SIGINT, at=1)(cfg)
    with pytest.raises(Interruption, match="2 iterations are saved in .* with --resume") as raised:
        trainer.train()
    assert raised.value.signal == signal.SIGINT
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000001.pth"
    resumed = train(cfg)
    assert resumed.start_iter == 2
    whole = cfg.clone()
    whole.OUTPUT_DIR += "_whole"
    for key, value in train(whole).model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[key], value)


def test_evaluations_are_broken_off(cfg, monkeypatch):
    evaluated = []

    def test(*args):
        os.kill(os.getpid(), signal.SIGTERM)
        evaluated.append(True)

    monkeypatch.setattr(Trainer, "test", test)
    with pytest.raises(Interruption, match="Stopped by SIGTERM: 3 iterations are saved"):
        Trainer(cfg).train()
    assert not evaluated
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000002.pth"


def test_workers_that_are_stopped_first_cost_no_iteration(cfg):
    """As at the end of a job, when all of its processes get the signal."""
    trainer = send_signal_in("before_step", signal.SIGTERM, at=2)(cfg)

    def fail(data):
        raise RuntimeError("DataLoader worker is killed by signal: Terminated.")

    step = trainer._step.compute_gradients
    trainer._step.compute_gradients = lambda data: step(data) if trainer.iter < 2 else fail(data)
    with pytest.raises(Interruption, match="2 iterations are saved"):
        trainer.train()
    assert (Path(cfg.OUTPUT_DIR) / "last_checkpoint").read_text() == "model_0000001.pth"


@pytest.mark.parametrize(("signals", "saved"), [(2, 2), (3, 1)])
def test_a_third_signal_does_not_wait_for_the_iteration(cfg, signals, saved):
    """The terminal and whoever started this may send one each, of which one comes late."""
    trainer = Trainer(cfg)
    compute_gradients = trainer._step.compute_gradients

    def stop(data):
        if trainer.iter == 1:
            for number in range(signals):
                time.sleep(1.1 if number == 1 else 0)
                os.kill(os.getpid(), signal.SIGINT)
        return compute_gradients(data)

    trainer._step.compute_gradients = stop
    with pytest.raises(Interruption, match=f"{saved} iterations are saved"):
        trainer.train()


def test_handlers_are_put_back(cfg):
    before = signal.getsignal(signal.SIGTERM)
    cfg.SOLVER.MAX_ITER = 1
    train(cfg)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_tools_end_with_one_sentence_and_the_usual_status(number, capsys):
    with pytest.raises(SystemExit) as raised, exit_on_user_error():
        os.kill(os.getpid(), number)
    assert raised.value.code == 128 + number
    assert capsys.readouterr().err == f"Stopped by {number.name}.\n"
