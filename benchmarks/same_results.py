"""Shows that a change of the code changes no result: tiny runs of two checkouts, compared to the last bit.

    python benchmarks/same_results.py record CHECKOUT OUT.json [--only NAME ...]
    python benchmarks/same_results.py compare BEFORE.json AFTER.json [--only NAME ...]

`record` calls `python -m css` of a checkout, one thread on a CPU, for everything in tiny_runs.py, about three CPU
minutes. It keeps of every run
    results  results.json without what LEFT_OUT and config's PLACES name: times, memory, versions, hardware, paths
    log      log.jsonl without LEFT_OUT
    weights  SHA-256, type and shape of every tensor of every safetensors file, and the file's metadata
    tables   table.md of a run; table.md, .csv, .tex, table-tasks.md, table-classes.md of a table, without the column of
             seconds
    files    the names of all files, SHA-256 of the pixels of pictures
`compare` says of every run which of them are equal, names the first keys that differ, and exits with 1 if any does. A
key that only AFTER has is a difference, too, unless it lies below MAY_BE_ADDED; those are listed. Both recordings must
be of one machine with the same versions: another CPU or PyTorch rounds differently.
"""

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from tiny_runs import RUNS
from tqdm import tqdm

LEFT_OUT = {"seconds", "peak_memory_mb", "log_bytes", "versions", "hardware"}  # wherever they are
PLACES = {"data_root", "runs", "name", "task0"}  # of config
MAY_BE_ADDED = ("config.",)  # of results: new settings, whose defaults are what the code did before
SECONDS = {"s", "seconds_mean"}  # titles of columns
SEPARATORS = {".md": "|", ".csv": ",", ".tex": " & "}
PARTS = ("results", "log", "weights", "tables", "files")
SHOWN = 5  # differences per part of a run


def main() -> int:
    arguments = parse()
    if arguments.command == "record":
        return record(arguments.checkout.resolve(), arguments.out, arguments.only)
    before, after = (json.loads(path.read_text()) for path in (arguments.before, arguments.after))
    return compare(before, after, arguments.only)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    recording, comparing = commands.add_parser("record"), commands.add_parser("compare")
    recording.add_argument("checkout", type=Path)
    recording.add_argument("out", type=Path)
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    for command in (recording, comparing):
        command.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS))
    return parser.parse_args()


def record(checkout: Path, out: Path, names: Iterable[str]) -> int:
    """Writes what the runs of a checkout leave; nothing if one of them fails."""
    if not (checkout / "css").is_dir():
        raise SystemExit(f"{checkout} holds no css/: name a checkout of the project.")
    environment = plain_environment(checkout)
    code = "import css, plop_baseline, tasks; print(css.__file__, plop_baseline.__file__, tasks.__file__)"
    for path in call(["-c", code], checkout, environment).split():
        if not Path(path).resolve().is_relative_to(checkout):
            raise SystemExit(f"{path} would be tested instead of what is in {checkout}.")
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in (bar := tqdm(list(names), unit="call")):
            bar.set_description(name)
            runs = Path(folder, name)
            runs.mkdir()
            call(["-m", "css", *arguments_of(name, runs)], checkout, environment)
            found[name] = records_below(runs)
        made_with = _made_with(checkout, Path(folder))
    out.write_text(json.dumps({"made_with": made_with, "runs": found}, separators=(",", ":")) + "\n")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{sum(map(len, found.values()))} records of {made_with['commit']} in {out}, "
          f"{used.ru_utime + used.ru_stime:.0f} CPU s")  # fmt: skip
    return 0


def plain_environment(checkout: Path) -> dict[str, str]:
    """One process with one thread on a CPU, and the packages of the checkout before installed ones."""
    several = {"GPUS", "RANK", "WORLD_SIZE", "LOCAL_RANK", "DATA_ROOT"}
    kept = {name: value for name, value in os.environ.items() if name not in several}
    return kept | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(checkout)}


def call(arguments: list[str], checkout: Path, environment: dict[str, str]) -> str:
    """Standard output of Python with these arguments."""
    command = [sys.executable, *arguments]
    outcome = subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True, check=False)
    if outcome.returncode:
        raise SystemExit(f"{outcome.stderr[-4000:]}\n{' '.join(arguments)} in {checkout} failed: {outcome.returncode}.")
    return outcome.stdout


def arguments_of(name: str, runs: Path) -> list[str]:
    """Arguments of css; a recipe is written beside the run folders first."""
    plan = RUNS[name]
    if isinstance(plan, list):
        return [*plan, "--runs", str(runs)]
    recipe = runs / f"{name}.yaml"
    recipe.write_text(json.dumps(plan))  # which is YAML
    return ["table", str(recipe), "--runs", str(runs)]


def records_below(runs: Path) -> dict[str, dict[str, Any]]:
    """By run folder, and by folder of a table, whose run folders lie in it."""
    found = {}
    for results in sorted(runs.rglob("results.json")):
        folder = results.parent
        found[folder.name] = parts_of(folder, folder.rglob("*"))
    for table in sorted(runs.rglob("table-tasks.md")):
        found["(table)"] = parts_of(table.parent, table.parent.glob("*"))
    return found


def parts_of(folder: Path, paths: Iterable[Path]) -> dict[str, Any]:
    """What is compared of the files of one folder."""
    parts: dict[str, Any] = {part: {} for part in PARTS}
    for path in sorted(path for path in paths if path.is_file()):
        name = path.relative_to(folder).as_posix()
        parts["files"][name] = digest(pixels(path)) if path.suffix == ".png" else "present"
        if name == "results.json":
            parts["results"] = stripped(json.loads(path.read_text()))
            parts["results"]["config"] = without(parts["results"]["config"], PLACES)
        elif name == "log.jsonl":
            parts["log"] = [stripped(json.loads(line)) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            parts["weights"][name] = tensors_of(path.read_bytes())
        elif path.suffix in SEPARATORS:
            parts["tables"][name] = without_seconds(path.read_text(), SEPARATORS[path.suffix]).splitlines()
    return parts


def pixels(path: Path) -> bytes:
    """What a picture shows, however it is compressed."""
    with Image.open(path) as picture:
        return f"{picture.mode} {picture.size}".encode() + picture.tobytes()


def stripped(value: Any) -> Any:
    """Without LEFT_OUT, at any depth."""
    if isinstance(value, dict):
        return {key: stripped(inner) for key, inner in without(value, LEFT_OUT).items()}
    return [stripped(inner) for inner in value] if isinstance(value, list) else value


def without(values: dict[str, Any], keys: set[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


def tensors_of(data: bytes) -> dict[str, Any]:
    """Type, shape and digest by name, from the bytes of a safetensors file: 8 bytes length, JSON, tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:start]), memoryview(data)[start:]
    metadata = header.pop("__metadata__", {})
    found = {
        name: f"{tensor['dtype']} {tensor['shape']} {digest(body[slice(*tensor['data_offsets'])])}"
        for name, tensor in header.items()
    }
    return {**found, "__metadata__": metadata}


def digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def without_seconds(text: str, separator: str) -> str:
    """A table without its column of seconds, and all else byte for byte."""
    lines, place = [], None
    for line in text.split("\n"):
        cells = line.split(separator)
        titles = [cell.strip(" \\") in SECONDS for cell in cells]
        if place is None and any(titles):
            place = titles.index(True)
        if place is not None and len(cells) > place:
            del cells[place]
        lines.append(separator.join(cells))
    return "\n".join(lines)


def _made_with(checkout: Path, runs: Path) -> dict[str, Any]:
    """Commit, versions and hardware, which are told and not compared."""
    git = ["git", "-C", str(checkout)]
    said = {"capture_output": True, "text": True}  # empty without git
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=False, **said).stdout.strip()
    changed = subprocess.run([*git, "status", "--porcelain"], check=False, **said).stdout.strip()
    results = json.loads(next(runs.rglob("results.json")).read_text())
    return {"commit": (commit or "unknown") + (" with changes" if changed else ""),
            **{key: results.get(key) for key in ("versions", "hardware")}}  # fmt: skip


def compare(before: dict[str, Any], after: dict[str, Any], names: Iterable[str]) -> int:
    """Prints which parts of which records are equal; 1 if any is not, or is absent, else 0."""
    print(f"before: {before['made_with']}\nafter:  {after['made_with']}\n")
    rows: list[list[str]] = []
    changes: list[str] = []
    added: dict[str, Any] = {}
    for name in names:
        first, second = before["runs"].get(name, {}), after["runs"].get(name, {})
        if not first and not second:
            changes.append(f"{name} is in neither recording; leave it out with --only")
        for run in {**first, **second}:
            words, told, new = compare_record(first.get(run), second.get(run))
            rows.append([f"{name} {run}", *words])
            changes += [f"{name} {run}, {phrase}" for phrase in told]
            added |= new
    width = max((len(row[0]) for row in rows), default=0)
    for title, *words in [["", *PARTS], *rows]:
        print(f"{title:{width}}  " + "  ".join(f"{word:9}" for word in words).rstrip())
    print("\n".join(["", *changes, *(f"added: {key} = {value!r}" for key, value in added.items())]))
    different = sum("DIFFERENT" in row for row in rows)
    print(f"{len(rows) - different} of {len(rows)} records are equal.")
    return 1 if changes else 0


def compare_record(
    first: dict[str, Any] | None, second: dict[str, Any] | None
) -> tuple[list[str], list[str], dict[str, Any]]:
    """A word for every part, the first differences as phrases, and what was added where it may be."""
    if first is None or second is None:
        return ["DIFFERENT"] * len(PARTS), [f"only {'after' if first is None else 'before'}"], {}
    words: list[str] = []
    told: list[str] = []
    added: dict[str, Any] = {}
    for part in PARTS:
        changes, new = differences(flat(first[part]), flat(second[part]), MAY_BE_ADDED if part == "results" else ())
        words.append("DIFFERENT" if changes else "equal" if first[part] else "-")
        told += [f"{part}: {change}" for change in changes[:SHOWN]]
        if len(changes) > SHOWN:
            told.append(f"{part}: {len(changes) - SHOWN} more")
        added |= new
    return words, told, added


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists as one dict: KEY.INNER.0 and so on."""
    if not isinstance(value, dict | list) or value == []:
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        found |= flat(inner, f"{prefix}.{key}" if prefix else str(key))
    return found


def differences(
    before: dict[str, Any], after: dict[str, Any], may_be_added: tuple[str, ...]
) -> tuple[list[str], dict[str, Any]]:
    """One phrase for every key that differs, and what was added below these prefixes.

    Numbers are equal if all their digits are.
    """
    added = {key: value for key, value in after.items() if key not in before and key.startswith(may_be_added)}
    changes = [
        f"{key} is {_text(before, key)} before and {_text(after, key)} after"
        for key in {**before, **after}
        if key not in added and _text(before, key) != _text(after, key)
    ]
    return changes, added


def _text(values: dict[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"


if __name__ == "__main__":
    sys.exit(main())
