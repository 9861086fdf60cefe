import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_killed_runs_end_like_unbroken_ones():
    """The short form of ``python tests/kills.py``, in a process that has no threads to fork."""
    killed = subprocess.run(
        [sys.executable, "-W", "ignore", ROOT / "tests" / "kills.py"]
        + ["--kills", "6", "--seconds", "40"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert killed.returncode == 0, killed.stderr
    figures = json.loads(killed.stdout.splitlines()[-1])
    assert figures["kills"] > 0
