"""What `css extend` keeps and learns: a first task, classes added one by one, and joint training as a measure.

    PYTHONPATH=. python benchmarks/extend_classes.py FOLDER --old skin hair --new hat bag [--encoder-weights FILE] ...

FOLDER has a data.yaml and labels of all classes. Every step is a command of css, in the folder OUT; what is finished is
skipped. The new classes are learnt from the images that show them, in which nothing else is labelled then. Seconds are
those of the whole command, on the clock and of the processors, and are kept in OUT/seconds.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import css

VARIANTS: dict[str, tuple[str, list[str]]] = {  # what is extended, and with which options
    "hypercolumns": ("first-columns", []),  # the run has kept statistics
    "labelled": ("first", ["--first-data", "DATA"]),  # the decoder's features, statistics of labelled old images
    "own": ("first", []),  # the decoder's features, statistics of the model's own answers
    "frozen+align": ("first", ["--first-data", "DATA", "--method", "frozen+align"]),
}


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--old", nargs="+", required=True)
    parser.add_argument("--new", nargs="+", required=True)
    parser.add_argument("--encoder", default="resnet50")
    parser.add_argument("--encoder-weights", default="none")
    parser.add_argument("--epochs", type=int, default=2, help="of the first task and of joint training")
    parser.add_argument("--crop", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=VARIANTS)
    parser.add_argument("--out", type=Path, default=Path("extend-classes"))
    given = parser.parse_args()
    learn(given, "first", given.old)
    learn(given, "first-columns", given.old, given.out / "first")
    for variant in given.variants:
        add_classes(given, variant)
    learn(given, "joint", [*given.old, *given.new])
    learn(given, "joint-columns", [*given.old, *given.new], given.out / "joint")
    print(tables(given))


def learn(given: argparse.Namespace, name: str, classes: Sequence[str], task0: Path | None = None) -> None:
    """One task of these classes, or another one's with classifiers on hypercolumns."""
    method = ["--method", "hypercolumn", "--task0", str(task0)] if task0 else ["--method", "finetune"]
    command(given, name, [
        "run", str(given.data), f"{len(classes)}-0", "--classes", *classes, *method, "--seed", str(given.seed),
        "--model.encoder", given.encoder, "--model.encoder-weights", given.encoder_weights,
        "--train.epochs", str(given.epochs), "--train.later-epochs", "8", "--train.batch", "8", "--train.lr", "0.01",
        "--train.crop", str(given.crop), "--train.workers", "1", "--evaluation", "whole",
        "--runs", str(given.out), "--name", name,
    ])  # fmt: skip


def add_classes(given: argparse.Namespace, variant: str) -> None:
    """The new classes, one after the other."""
    model, options = VARIANTS[variant]
    options = [str(given.data) if option == "DATA" else option for option in options]
    for step, name in enumerate(given.new):
        later = options[2:] if step and "--first-data" in options else options  # the run has kept statistics by then
        larger = f"{variant}-{step + 1}"
        command(given, larger, [
            "extend", str(given.out / model), "--data", str(given.data), "--classes", name, "--old-test",
            str(given.data), "--seed", str(given.seed), *later, "--out", str(given.out / larger),
        ])  # fmt: skip
        model = larger


def command(given: argparse.Namespace, name: str, arguments: Sequence[str]) -> None:
    """css ARGUMENTS in a process of its own; its seconds, if it has run in one go."""
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / "seconds.json"
    spent = json.loads(path.read_text()) if path.exists() else {}
    if name in spent:
        return
    fresh, before, began = not (given.out / name).exists(), _processor(), time.perf_counter()
    program = str(Path(__file__).parent.parent / "css" / "__main__.py")
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2")}
    subprocess.run([sys.executable, program, *arguments], check=True, env=environment)
    seconds = [round(time.perf_counter() - began), round(_processor() - before)] if fresh else None
    path.write_text(json.dumps({**spent, name: seconds}, indent=1))


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def tables(given: argparse.Namespace) -> str:
    """IoU of every class by model, what old classes lost, the share of joint training, seconds."""
    columns = {name: _iou(given, name) for name in ("first", "first-columns", "joint", "joint-columns")}
    ends = {variant: _iou(given, f"{variant}-{len(given.new)}") for variant in given.variants}
    lines = [_row(["class", *columns, *ends]), _row(["---"] * (1 + len(columns) + len(ends)))]
    shown = [*columns.values(), *ends.values()]
    for name in ["background", *given.old, *given.new]:
        lines += [_row([name, *(_percent(iou.get(name)) for iou in shown)])]
    spent = json.loads((given.out / "seconds.json").read_text())
    for variant, iou in ends.items():
        before = columns[VARIANTS[variant][0]]
        lost = sum(iou[name] - before[name] for name in given.old) / len(given.old)
        joint = columns["joint-columns" if variant == "hypercolumns" else "joint"]
        shares = [f"{name} {100 * iou[name] / joint[name]:.0f} %" if joint[name] else f"{name} -" for name in given.new]
        seconds = [spent[f"{variant}-{step + 1}"] for step in range(len(given.new))]
        lines.append(f"\n{variant}: old classes {100 * lost:+.2f} on average; of joint training {', '.join(shares)}; "
                     f"seconds on the clock and of the processors: {seconds}")  # fmt: skip
    return "\n".join(lines)


def _iou(given: argparse.Namespace, name: str) -> dict[str, float]:
    """On whole validation images, whatever the classes of the run's own test were."""
    return {of: value or 0.0 for of, value in css.load(given.out / name).evaluate(given.data).items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
