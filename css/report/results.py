"""results.json: the one source of every table and picture."""

from pathlib import Path

from css.system.files import read_json, write_json
from css.system.version import TOOLKIT, require_no_newer
from tasks import InputError


def write_results(folder: Path, facts: dict, summary: dict, tasks: list[dict], complete: bool) -> dict:
    """`summary`: scores of all tasks together."""
    results = {"complete": complete, **summary, "tasks": tasks, **facts}
    write_json(folder / "results.json", results)
    return results


def read_results(folder: Path) -> dict:
    """results.json of a run folder. Raises InputError if it is not there, not ours, or a newer version's."""
    results = _read(folder / "results.json", {"tasks", "config", "complete"})
    versions = results.get("versions")
    require_no_newer(folder, versions.get(TOOLKIT, "") if isinstance(versions, dict) else "")
    return results


def read_task_result(home: Path) -> dict:
    """result.json of the folder of one finished task. Raises InputError if it is not there or not ours."""
    return _read(home / "result.json", {"new_classes", "log_bytes"})


def _read(path: Path, keys: set[str]) -> dict:
    values = read_json(path)
    if not isinstance(values, dict) or not keys <= values.keys():
        raise InputError(f"{path} was not written by this program; name a run folder made by it.")
    return values


def remarks(results: dict) -> str:
    """What a reader of a run's table must know: kept images, and tasks that are still to come."""
    options = results["config"].get("options", {})
    memory = options.get("memory") or options.get("base", {}).get("memory")  # of +replay, perhaps with +s2mf around it
    kept = f" Up to {memory} images of every task are kept." if memory else ""
    return kept + ("" if results["complete"] else " This run is not finished.")
