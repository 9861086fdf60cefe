"""Start-up stays fast, since nothing heavy is imported before it is used; and order is free."""

import subprocess
import sys

# Detectron2 itself imports OpenCV.
HEAVY = {"matplotlib", "pandas", "shapely", "supervision", "tensorboard", "timm", "transformers"}
SCRIPT = f"""
import sys
from detectron2.solver import build_optimizer
import d2detr.engine
assert build_optimizer.__module__ == "d2detr.solver"  # though it was taken before
assert not {HEAVY!r} & set(sys.modules), {HEAVY!r} & set(sys.modules)
assert "d2detr.predict" not in sys.modules
d2detr.Predictor
assert "d2detr.predict" in sys.modules
"""


def test_imports_in_a_process_of_their_own():
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True)
    assert result.returncode == 0, result.stderr.decode()
