"""Start-up stays fast: nothing heavy is imported before it is used."""

import subprocess
import sys

# Detectron2 itself imports OpenCV.
HEAVY = {"matplotlib", "pandas", "shapely", "supervision", "tensorboard", "timm", "transformers"}


def test_training_imports_nothing_heavy():
    code = f"import sys, d2detr.engine; print(*{HEAVY!r} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
