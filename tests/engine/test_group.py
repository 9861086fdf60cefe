import argparse

import pytest

from d2detr.cli.arguments import add_launch_arguments
from d2detr.engine.group import Group, expand_hosts, find_group
from d2detr.errors import UserError

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "first",
    "MASTER_PORT": "29500",
}
SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NODELIST": "gpu[07,09]",
    "SLURM_JOB_ID": "15123",
}


def parse(*args):
    parser = argparse.ArgumentParser()
    add_launch_arguments(parser)
    return parser.parse_args(args)


def test_without_anything_one_process_is_started():
    assert find_group(parse(), {}).world_size == 1


def test_processes_to_start_on_two_machines():
    url = ["--dist-url", "tcp://first:1234"]
    args = parse("--num-gpus", "4", "--num-machines", "2", "--machine-rank", "1", *url)
    group = find_group(args, {})
    assert group == Group(2, 1, 4, "first:1234")
    assert (group.world_size, group.rank(3)) == (8, 7)


@pytest.mark.parametrize(
    ("environ", "address"), [(TORCHRUN, "first:29500"), (SLURM, "gpu07:15123")]
)
def test_processes_that_something_else_has_started(environ, address):
    group = find_group(parse(), environ)
    assert group == Group(2, 1, 4, address, local_rank=1)
    assert group.rank(group.local_rank) == 5


def test_a_batch_job_of_one_task_starts_its_processes_itself():
    args = parse("--num-gpus", "2")
    assert find_group(args, {**SLURM, "SLURM_NTASKS": "1"}).num_processes == 2


@pytest.mark.parametrize(
    ("args", "environ", "message"),
    [
        (
            ["--num-gpus", "1"],
            TORCHRUN,
            "torchrun has started .* one of 8, so --num-gpus cannot",
        ),
        (["--num-gpus", "8"], SLURM, "Slurm has started .* leave it out"),
        ([], {**TORCHRUN, "LOCAL_WORLD_SIZE": "3"}, "every machine must run as many processes"),
        ([], {**SLURM, "SLURM_LOCALID": "2"}, "numbered one machine after the other"),
        (["--num-machines", "2"], {}, "--dist-url tcp://HOST:PORT must name machine 0"),
        (["--num-machines", "2", "--machine-rank", "2"], {}, "numbered from 0"),
        (["--dist-url", "file:///tmp/x"], {}, "must be tcp://HOST:PORT"),
    ],
)
def test_contradictions(args, environ, message):
    with pytest.raises(UserError, match=message):
        find_group(parse(*args), environ)


@pytest.mark.parametrize(
    ("nodes", "hosts"),
    [
        ("a-1,b", ["a-1", "b"]),
        ("gpu[08-10,3],cpu", ["gpu08", "gpu09", "gpu10", "gpu3", "cpu"]),
        ("rack[1-2]n[07,09]x", ["rack1n07x", "rack1n09x", "rack2n07x", "rack2n09x"]),
    ],
)
def test_hosts_of_slurm(nodes, hosts):
    assert expand_hosts(nodes) == hosts
