"""Repairs of what Detectron2 trains with: processes, data, checkpoints, profiler."""

from __future__ import annotations

import functools
import gc
import logging
import random
from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import distributed

from d2detr.compat.installed import mentions


def repair_launch(launch: ModuleType) -> None:
    """`launch` needs GPUs in 0.6; over gloo, every version aborts now and then when it exits."""
    knows_gloo = mentions("engine/launch.py", "GLOO")
    launch.run_main_func = launch._distributed_worker if knows_gloo else run_on_cpu_or_gpu
    launch._distributed_worker = distributed_worker


def distributed_worker(*args: Any) -> None:
    """Is what `launch` runs in each process: the user's function, then an orderly exit."""
    import_module("detectron2.engine.launch").run_main_func(*args)
    leave_process_group()


def leave_process_group() -> None:
    """Leaves this process's gloo groups, without waiting for the other processes.

    gloo's threads live as long as their group, and one that still has a tensor to free when
    Python shuts down aborts the process, after all work is done. So nothing may keep a group.
    NCCL's groups end with the process: leaving them would wait for processes that still work.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    comm = import_module("detectron2.utils.comm")
    gloo = None if distributed.get_backend() == "gloo" else _gloo_group_beside_nccl(comm)
    comm._LOCAL_PROCESS_GROUP = None
    comm._get_global_gloo_group.cache_clear()
    if distributed.get_backend() == "gloo" or gloo is not None:
        distributed.destroy_process_group(gloo)  # None stands for all of them
    gc.collect()  # models in DistributedDataParallel hold the group, too


def _gloo_group_beside_nccl(comm: ModuleType) -> distributed.ProcessGroup | None:
    is_made = comm._get_global_gloo_group.cache_info().currsize > 0
    return comm._get_global_gloo_group() if is_made else None


def run_on_cpu_or_gpu(
    local_rank: int,
    main_func: Callable,
    world_size: int,
    processes_per_machine: int,
    machine_rank: int,
    dist_url: str,
    args: tuple,
    timeout: timedelta,
) -> None:
    """Runs `main_func` in a process group, like main's worker of this signature."""
    comm = import_module("detectron2.utils.comm")
    gpus = torch.cuda.device_count()
    if 0 < gpus < processes_per_machine:
        raise RuntimeError(f"{processes_per_machine} processes on {gpus} GPU(s): one each, please.")
    distributed.init_process_group(
        backend="nccl" if gpus else "gloo",
        init_method=dist_url,
        world_size=world_size,
        rank=machine_rank * processes_per_machine + local_rank,
        timeout=timeout,
    )
    for first in range(0, world_size, processes_per_machine):
        # Every process has to take part in the making of every machine's group.
        group = distributed.new_group(list(range(first, first + processes_per_machine)))
        if first == machine_rank * processes_per_machine:
            comm._LOCAL_PROCESS_GROUP = group
    if gpus:
        torch.cuda.set_device(local_rank)
    comm.synchronize()
    main_func(*args)


def repair_defaults(defaults: ModuleType) -> None:
    """Makes the repairs of `detectron2.engine.defaults`."""
    train_in_parallel_on_cpus(defaults)
    keep_optimizer_state(defaults)


def train_in_parallel_on_cpus(defaults: ModuleType) -> None:
    """`create_ddp_model` gives a model on the CPU a GPU's number, in every version."""
    stock = defaults.DistributedDataParallel

    def on_cpus_or_gpus(model: torch.nn.Module, device_ids: list | None = None, **kwargs: Any):
        on_cpu = next(model.parameters()).device.type == "cpu"
        return stock(model, device_ids=None if on_cpu else device_ids, **kwargs)

    defaults.DistributedDataParallel = on_cpus_or_gpus


def keep_optimizer_state(defaults: ModuleType) -> None:
    """0.6 saves no optimizer state, so that a resumed run restarts it; main cannot resume that."""
    trainer = defaults.DefaultTrainer

    def state_dict(self: Any) -> dict:
        return {**super(trainer, self).state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self: Any, state: dict) -> None:
        super(trainer, self).load_state_dict(state)
        if "_trainer" in state:
            self._trainer.load_state_dict(state["_trainer"])
        else:
            logging.getLogger(__name__).warning(
                "This checkpoint holds no optimizer state (Detectron2 0.6 by itself saves none): "
                "training goes on with a fresh optimizer."
            )

    trainer.state_dict = state_dict  # in main's layout: both read each other's checkpoints
    trainer.load_state_dict = load_state_dict


def sample_from_sets(common: ModuleType) -> None:
    """0.6 replaces a None by a sample of a set in MapDataset, an error since Python 3.11."""
    if not mentions("data/common.py", "sample(self._fallback_candidates"):
        return
    init = common.MapDataset.__init__

    @functools.wraps(init)
    def init_with_set_sampler(self: Any, dataset: Any, map_func: Callable) -> None:
        init(self, dataset, map_func)
        self._rng = SetSampler(42)

    common.MapDataset.__init__ = init_with_set_sampler


class SetSampler(random.Random):
    """A random generator that samples from sets, too."""

    def sample(self, population: Any, k: int) -> list:
        return super().sample(list(population), k)


def repair_hooks(hooks: ModuleType) -> None:
    """Makes the repairs of `detectron2.engine.hooks`."""
    repair_autograd_profiler(hooks)
    keep_scheduler_state(hooks)


def keep_scheduler_state(hooks: ModuleType) -> None:
    """0.6 saves and restores `_LRScheduler`s, which torch's own schedulers are not since 2.0."""
    if not mentions("engine/hooks.py", "isinstance(self.scheduler, torch.optim.lr_scheduler._LR"):
        return

    def state_dict(self: Any) -> dict:
        return self.scheduler.state_dict() if has_state(self.scheduler) else {}

    def load_state_dict(self: Any, state: dict) -> None:
        if has_state(self.scheduler):
            logging.getLogger(hooks.__name__).info("Loading scheduler from state_dict ...")
            self.scheduler.load_state_dict(state)

    def has_state(scheduler: Any) -> bool:
        return isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler)

    hooks.LRScheduler.state_dict = state_dict
    hooks.LRScheduler.load_state_dict = load_state_dict


def repair_autograd_profiler(hooks: ModuleType) -> None:
    """AutogradProfiler never set what its end reads; its `use_cuda` is gone by torch 2.14."""

    def before_step(self: Any) -> None:
        self._save_tensorboard = False
        self._profiler = None
        if self._enable_predicate(self.trainer):
            on_gpu = self._use_cuda and torch.cuda.is_available()
            device = "cuda" if on_gpu else None
            self._profiler = torch.autograd.profiler.profile(use_device=device)
            self._profiler.__enter__()

    hooks.AutogradProfiler.before_step = before_step
