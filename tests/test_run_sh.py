"""run.sh, in an environment that already has the packages."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.datasets.registry import DATASETS

ROOT = Path(__file__).parent.parent


def run_sh(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "GPUS": "1"}
    command = ["bash", ROOT / "run.sh", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False, cwd=cwd)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "bash run.sh voc 15-1"),
        (("list",), 0, "plop"),
        (("shapes", "17-9"), 2, "protocol '17-9'"),
        (("voc", "15-1", "--data-root", "nowhere"), 2, "nowhere"),
        (("fly",), 2, "'fly' is no command"),
        (("shape", "15-1"), 2, "did you mean shapes or shapes-cls?"),
        (("--version",), 0, "css 0."),
    ],
)
def test_commands(arguments, code, words):
    outcome = run_sh(*arguments)
    assert outcome.returncode == code and words in outcome.stdout + outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_modules_of_the_users_are_not_taken_for_the_librarys(tmp_path):
    """Or run.sh finds no packages and installs an environment of its own."""
    for name in ("json", "re", "email", "tasks", "css"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit(7)")
    outcome = run_sh("--version", cwd=tmp_path)
    assert outcome.returncode == 0 and outcome.stdout.startswith("css 0."), outcome.stderr


def test_names_no_data_set():
    """They are known in one place."""
    script = (ROOT / "run.sh").read_text()
    lines = [line for line in script.splitlines() if not line.startswith("#")]
    assert not [line for line in lines for name in DATASETS if name in line.partition("#")[0]]


def test_one_list_of_dependencies():
    """environment.yml takes them from pyproject.toml."""
    listed = (ROOT / "environment.yml").read_text()
    assert "-e .[test]" in listed and "torch" not in listed
