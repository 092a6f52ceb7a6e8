"""What a run says in a file and on a terminal."""

import ast
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from small_voc import css, run_arguments

PROGRAM = Path(__file__).parent.parent / "css" / "__main__.py"


@pytest.mark.usefixtures("data")
def test_piped_output_is_a_line_per_epoch(data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "run", "--method", "finetune", "--train.epochs", "2", protocol="2-1"))
    assert outcome.code == 0, outcome.err
    lines = outcome.err.splitlines()
    epochs = [line for line in lines if ": epoch " in line]
    assert [line.partition(",")[0] for line in epochs] == [
        f"task {task} fit: epoch {epoch}/2" for task in (0, 1) for epoch in (1, 2)
    ]
    assert all(" ce " in line and line.endswith(" s") for line in epochs)
    assert "\r" not in outcome.err and "step/s" not in outcome.err
    assert len(lines) < 15, outcome.err


def test_every_bar_knows_where_it_is_drawn():
    """disable=None: on terminals only."""
    root, bars = PROGRAM.parent.parent, 0
    for path in (path for package in ("css", "tasks", "plop_baseline") for path in (root / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "tqdm":
                assert "disable" in {word.arg for word in node.keywords}, f"{path}:{node.lineno}"
                bars += 1
    assert bars > 15


def on_a_terminal(arguments: list[str], environment: dict[str, str]) -> str:
    """What a command writes where stdout and stderr are a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen([sys.executable, PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=follower,
                               stderr=follower, env={**os.environ, "TERM": "xterm", **environment})  # fmt: skip
    os.close(follower)
    text = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the end of it, on Linux
            break
        if not part:
            break
        text += part
    os.close(leader)
    process.wait(60)
    return text.decode()


def test_no_color():
    """Colours of the option parser are for terminals, and not even there for those who want none."""
    arguments = ["report", "--help"]
    assert "\x1b[" in on_a_terminal(arguments, {}), "else the test shows nothing"
    assert "\x1b[" not in on_a_terminal(arguments, {"NO_COLOR": "1"})
