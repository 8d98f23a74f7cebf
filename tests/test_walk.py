"""The bars on how far a call walks through the code, and on what the scheduler imports, hold.

``benchmarks/walk.py`` counts; counts do not depend on how fast the machine is.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.timeout(600)  # 25 walks of each kind, in three processes


@pytest.fixture(scope="module")
def figures() -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.walk", "--json"]
    # Debug modes of Python walk further.
    modes = ("PYTHONDEVMODE", "PYTHONASYNCIODEBUG")
    environment = {name: value for name, value in os.environ.items() if name not in modes}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {row["figure"]: row for row in json.loads(done.stdout)}


def test_no_walk_is_longer_than_its_bar(figures: dict[str, dict[str, Any]]) -> None:
    assert len(figures) == 13
    above = {
        name: (row["now"], row["at_most"])
        for name, row in figures.items()
        if not 0 < row["now"] <= row["at_most"]
    }
    assert above == {}
