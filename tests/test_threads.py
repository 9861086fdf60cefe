import os
import subprocess
import sys

import pytest

from d2detr import threads

NAMES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


@pytest.fixture
def before_torch(monkeypatch):
    """As if nothing had been imported or chosen yet."""
    monkeypatch.delitem(sys.modules, "torch")
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def chosen():
    return {name: os.environ[name] for name in NAMES if name in os.environ}


def test_waiting_threads_sleep_soon(before_torch):
    threads.bound_spinning()
    assert chosen() == {"GOMP_SPINCOUNT": threads.SPIN_COUNT}


@pytest.mark.parametrize("name", NAMES)
def test_the_users_choice_stays(before_torch, monkeypatch, name):
    monkeypatch.setenv(name, "7")
    threads.bound_spinning()
    assert chosen() == {name: "7"}


def test_a_torch_that_is_loaded_is_left_alone(before_torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", object())
    threads.bound_spinning()
    assert chosen() == {}


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP comes with torch on Linux")
def test_torch_reads_it():
    """Set within the process that then imports torch."""
    code = f"import runpy; runpy.run_path({threads.__file__!r})['bound_spinning'](); import torch"
    environment = {key: value for key, value in os.environ.items() if key not in NAMES}
    environment["OMP_DISPLAY_ENV"] = "verbose"
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert f"GOMP_SPINCOUNT = '{threads.SPIN_COUNT}'" in result.stderr
