"""The processes of a run: started, watched and ended together, with one reason for all."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from multiprocessing import connection
from typing import Any

from detectron2.engine.launch import DEFAULT_TIMEOUT
from torch.multiprocessing import ProcessContext, start_processes

from d2detr.compat import distributed_worker
from d2detr.engine.group import Group
from d2detr.engine.noticeboard import Failure, Noticeboard
from d2detr.errors import UserError

_PERIOD = 0.5  # seconds between two looks at the noticeboard
_GRACE = 5.0  # seconds that processes may take to end by themselves once one has failed
# The same once one has ended because of a signal that all have got; they may still write.
_GRACE_AFTER_SIGNAL = 120.0
_LOST_A_PEER = 17  # exit status of a process that failed because another one had ended


def launch_processes(main: Callable[..., Any], args: tuple, group: Group, log: str) -> None:
    """Run ``main(*args)`` in all processes of a group, started here or by torchrun or Slurm.

    The first failure ends the processes of all machines within seconds, and the program with one
    sentence.

    Args:
        main: ends with a sentence in ``SystemExit`` where a traceback would not help.
        args: its arguments.
        group: the processes.
        log: the log file of rank 0; that of rank 1 has ``.rank1`` behind its name.

    Raises:
        SystemExit: the run failed.
        UserError: the machines cannot meet.
    """
    if group.local_rank is not None:
        _work(group.local_rank, main, args, group, log)
    elif group.world_size == 1:
        main(*args)
    else:
        board = _meet(group)
        group = replace(group, address=board.address)
        context = start_processes(
            _work, (main, args, group, log), nprocs=group.num_processes, join=False
        )
        failure = _watch(context, board, group, log)
        if failure is not None:
            board.leave(group.num_machines)
            sys.stderr.write(failure.message)
            sys.exit(failure.status)


def _meet(group: Group) -> Noticeboard:
    address, is_host = group.address or "127.0.0.1:0", group.machine_rank == 0
    try:
        return Noticeboard(address, is_host=is_host, timeout=DEFAULT_TIMEOUT)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--dist-url tcp://{address} cannot be used. It must be an address of machine 0, where "
            f"the same command runs, and a port that is free there: {str(error).splitlines()[0]}"
        ) from None


def _watch(context: ProcessContext, board: Noticeboard, group: Group, log: str) -> Failure | None:
    """Wait until all processes have ended; return why, unless all ended well."""
    running = {process.sentinel: rank for rank, process in enumerate(context.processes)}
    failure, statuses, deadline = None, [], None
    while running:
        for sentinel in connection.wait(running, timeout=_PERIOD):
            rank = running.pop(sentinel)
            context.processes[rank].join()
            status = context.processes[rank].exitcode
            if deadline is None:  # what ends later is a consequence
                statuses.append(status)
                if status < 0:
                    board.post(_killed(-status, _name(rank, group, log)))
        failure = failure or board.read()
        if deadline is None and (failure or any(statuses)):
            is_stopped = not failure and all(_was_told_to_end(x) for x in statuses if x)
            deadline = time.monotonic() + (_GRACE_AFTER_SIGNAL if is_stopped else _GRACE)
        if deadline is not None and time.monotonic() > deadline:
            for process in context.processes:
                process.kill()
    if deadline is None:
        return None
    return failure or _guess(board, statuses, log)


def _killed(number: int, name: str) -> Failure:
    hint = ", as the system does when memory runs out" if number == signal.SIGKILL else ""
    message = f"error: {name} was killed by {signal.Signals(number).name}{hint}.\n"
    return Failure(message, 128 + number)


def _was_told_to_end(status: int) -> bool:
    return status > 128


def _guess(board: Noticeboard, statuses: list[int], log: str) -> Failure:
    """Why no process of this machine has told a reason."""
    own = next((status for status in statuses if status not in (0, _LOST_A_PEER)), None)
    if own is None:
        time.sleep(2 * _PERIOD)  # another machine's launcher may notice a moment later
        lost = "error: The connection to another machine was lost; its output says why.\n"
        return board.read() or Failure(lost)
    if _was_told_to_end(own):  # and has said so
        return Failure("", own)
    return Failure(f"error: A process ended with status {own}; its log is {log}*.\n", own)


def _work(local_rank: int, main: Callable[..., Any], args: tuple, group: Group, log: str) -> None:
    """Be one process of a group."""
    has_launcher = group.local_rank is None
    if has_launcher:  # which keeps the store where the processes meet
        host, _, port = group.address.rpartition(":")
        os.environ |= {
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "MASTER_ADDR": host,
            "MASTER_PORT": port,
        }
    logging.getLogger("detectron2.engine.train_loop").addFilter(_without_page_on_lost_peer)
    try:
        distributed_worker(
            local_rank,
            main,
            group.world_size,
            group.num_processes,
            group.machine_rank,
            f"tcp://{group.address}",
            args,
            DEFAULT_TIMEOUT,
        )
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        _fail(Failure(f"{end.code}\n"), group, has_launcher)
    except Exception as error:
        if _is_lost_peer(error):
            if not has_launcher:
                sys.stderr.write("error: The connection to another process was lost.\n")
            sys.exit(_LOST_A_PEER)
        traceback.print_exc()
        what = "".join(traceback.format_exception_only(error)).strip()
        _fail(
            Failure(f"error: {_name(local_rank, group, log)} ended with {what}\n"),
            group,
            has_launcher,
        )


def _fail(failure: Failure, group: Group, has_launcher: bool) -> None:
    """End this process for a reason that is printed once: here, or by each machine's launcher."""
    try:
        board = Noticeboard(group.address, is_host=False, timeout=timedelta(seconds=_GRACE))
        is_mine = board.post(failure) and not has_launcher
    except RuntimeError:  # whoever kept it has ended
        is_mine = True
    if is_mine:
        sys.stderr.write(failure.message)
    sys.exit(failure.status)


def _name(local_rank: int, group: Group, log: str) -> str:
    rank = group.rank(local_rank)
    host = f" on {socket.gethostname()}" if group.num_machines > 1 else ""
    log = f"{log}.rank{rank}" if rank else log
    return f"Process {rank} of {group.world_size}{host}, whose log is {log},"


def _without_page_on_lost_peer(record: logging.LogRecord) -> bool:
    if record.exc_info and _is_lost_peer(record.exc_info[1]):
        record.exc_info = None
        record.msg, record.args = "The connection to another process was lost.", ()
    return True


def _is_lost_peer(error: BaseException | None) -> bool:
    signs = ("Connection closed by peer", "Connection reset by peer", "Broken pipe")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
