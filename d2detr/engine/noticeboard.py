from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from datetime import timedelta

from torch import distributed

_FAREWELL = 3.0  # seconds that the host waits for the other launchers to read why the run has ended


@dataclass(frozen=True)
class Failure:
    """Why a run has ended.

    Attributes:
        message: one sentence for people.
        status: the exit status.
    """

    message: str
    status: int = 1


class Noticeboard:
    """Where the processes of a run and their launchers, on all machines, tell why it has ended.

    It is a part of the store where the processes meet. Once its host is gone nothing is written
    and nothing is read any more.

    Args:
        address: "HOST:PORT"; the host chooses a port for 0.
        is_host: whether this process keeps the store.
        timeout: how long to wait for the host.

    Raises:
        RuntimeError: the address cannot be used, or nobody keeps a store there.
    """

    def __init__(self, address: str, *, is_host: bool, timeout: timedelta):
        host, _, port = address.rpartition(":")
        self._store = distributed.TCPStore(
            host, int(port), is_master=is_host, wait_for_workers=False, timeout=timeout
        )
        self._is_host = is_host
        # torchrun keeps its store when it starts the processes again.
        self._key = f"d2detr/failure/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self.address = f"{host}:{self._store.port}"

    def post(self, failure: Failure) -> bool:
        """Tell why the run ends; whether nobody had told another reason before."""
        note = json.dumps([failure.message, failure.status])
        try:
            return self._store.compare_set(self._key, "", note).decode() == note
        except RuntimeError:
            return True

    def read(self) -> Failure | None:
        """Return why the run ends, if anybody has told it."""
        try:
            if not self._store.check([self._key]):
                return None
            return Failure(*json.loads(self._store.get(self._key)))
        except RuntimeError:
            return None

    def leave(self, num_launchers: int) -> None:
        """Be done with reading; the host waits a moment for the other launchers."""
        try:
            end = time.monotonic() + _FAREWELL
            left = self._store.add("d2detr/left", 1)
            while self._is_host and left < num_launchers and time.monotonic() < end:
                time.sleep(0.1)
                left = self._store.add("d2detr/left", 0)
        except RuntimeError:
            return
