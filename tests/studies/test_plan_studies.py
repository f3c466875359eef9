"""The planner's studies run, draw, and keep their claims."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NAMES = ("moe_dense_first", "vision_language", "mixed_gpus")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_study(name, tmp_path):
    command = [sys.executable, "-m", f"studies.study_plan_{name}", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "gain" in done.stdout
    assert len(list(tmp_path.glob("*.svg"))) == 2
