"""run.sh, in an environment that already has the packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def run_sh(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GPUS": "1"}
    command = ["bash", ROOT / "run.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "bash run.sh voc 15-1"),
        (("list",), 0, "plop"),
        (("shapes", "17-9"), 2, "protocol '17-9'"),
        (("voc", "15-1", "--data-root", "nowhere"), 2, "nowhere"),
        (("fly",), 2, "'fly' is no command"),
    ],
)
def test_commands(arguments, code, words):
    outcome = run_sh(*arguments)
    assert outcome.returncode == code and words in outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_one_list_of_dependencies():
    """environment.yml takes them from pyproject.toml."""
    listed = (ROOT / "environment.yml").read_text()
    assert "-e .[test]" in listed and "torch" not in listed
