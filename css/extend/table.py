"""What an extension has learnt, and what it has cost the old classes."""

from collections.abc import Mapping, Sequence
from typing import Any

from css.report.text import markdown, percent

Scores = Mapping[str, float | None]  # IoU by name of a class


def extension_table(extends: Mapping[str, Any], learnt: Scores) -> str:
    """`extends` as in results.json: `model`, `statistics`, and `before` and `after` of old classes if they were tested.

    `learnt`: IoU of the new classes on the validation images of the new data.
    """
    rows = [[name, percent(value)] for name, value in learnt.items()]
    parts = [f"{extends['model']} has learnt {', '.join(learnt)}", markdown(["new class", "IoU"], rows)]
    if extends.get("before"):
        parts.append(_lost(extends["before"], extends["after"]))
    else:
        parts.append("Old classes were not tested: give --old-test FOLDER.")
    return "\n\n".join([*parts, f"Statistics of the old classes: {extends['statistics']}.", ""])


def _lost(before: Scores, after: Scores) -> str:
    rows = [[name, percent(old), percent(after[name]), _change(old, after[name])] for name, old in before.items()]
    known = [name for name, value in before.items() if value is not None]
    means = [_mean([scores[name] for name in known]) for scores in (before, after)]
    rows.append(["mean", *map(percent, means), _change(*means)])
    return markdown(["old class", "before", "after", "change"], rows)


def _change(before: float | None, after: float | None) -> str:
    return "-" if before is None or after is None else f"{100 * (after - before):+.2f}"


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
