"""CPU seconds until a command answers that learns nothing: this checkout and another one, alternating.

    git worktree add ../before efb101f
    python benchmarks/startup.py ../before [--repeats 3]

Printed are the least user + system seconds of every command, imports included, and the ratio. A run of two tiny tasks
is made first, for `css report`. What it does not show: the time to read files that are not in the disk cache.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
COMMANDS = {
    "--help": ["--help"],
    "list": ["list"],
    "unknown option": ["run", "shapes", "15-1", "--no-such-option", "1"],
    "unknown data set": ["run", "vco", "15-1"],
    "report RUN": ["report", "RUN"],
    "run --help": ["run", "shapes", "15-1", "--help"],
}
TINY = [
    "run", "shapes", "1-1", "--classes", "1", "2", "--method", "finetune", "--model.encoder", "tu-test_resnet",
    "--train.crop", "32", "--train.epochs", "1", "--train.later-epochs", "1", "--train.workers", "0",
]  # fmt: skip


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "now": HERE}
    with tempfile.TemporaryDirectory() as folder:
        seconds(checkouts["before"], [*TINY, "--runs", folder, "--name", "run"])
        print(f"{'css':18} {'before':>8} {'now':>8} {'ratio':>7}   CPU seconds, least of {arguments.repeats}")
        for name, command in COMMANDS.items():
            words = [str(Path(folder, "run")) if word == "RUN" else word for word in command]
            found: dict[str, list[float]] = {which: [] for which in checkouts}
            for _ in range(arguments.repeats):
                for which, checkout in checkouts.items():
                    found[which].append(seconds(checkout, words))
            before, now = (min(found[which]) for which in ("before", "now"))
            print(f"{name:18} {before:8.2f} {now:8.2f} {before / now:6.1f}x", flush=True)


def seconds(checkout: Path, command: list[str]) -> float:
    """User and system seconds of a command of css, as installed in this environment, with the code of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "css", *command], cwd=checkout, env=environment, capture_output=True, check=False
    )
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    return now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime


if __name__ == "__main__":
    main()
