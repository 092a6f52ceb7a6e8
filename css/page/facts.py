"""What a report says about a run, from its results.json alone."""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

_SHARE = 1.0  # % of the pixels of a class: what is less is not said
_MOST = 3  # other classes that are named


Matrix = Sequence[Sequence[int]]


class Mistaken(NamedTuple):
    """Pixels taken for another class, or of another class taken for this one, in % of this class's own pixels."""

    name: str  # of the other class
    now: float
    then: float  # when this class was learnt; 0 if the other one came later

    @property
    def grown(self) -> bool:
        """Whether it says why the class was forgotten."""
        return self.now - self.then >= _SHARE


class Fate(NamedTuple):
    """What became of one class, scores in %; None without ground truth."""

    class_id: int
    name: str
    task: int  # in which it was learnt
    learnt: float | None
    final: float | None
    went: list[Mistaken]  # what its pixels are called instead at the end
    came: list[Mistaken]  # what is called so at the end, and is not

    @property
    def lost(self) -> float | None:
        """Points lost since it was learnt."""
        return None if self.learnt is None or self.final is None else self.learnt - self.final


class Heat(NamedTuple):
    """A table of numbers in %, each with a share of colour."""

    columns: list[str]
    rows: list[tuple[str, list[float | None]]]


def per_class(task: Mapping[str, Any]) -> list[float | None]:
    """Scores of the classes seen so far, whether they are IoU or accuracy."""
    return task["iou"] if "iou" in task else task["class_accuracy"]


def class_fates(results: Mapping[str, Any]) -> list[Fate]:
    """Every class that is learnt, in the order of learning."""
    tasks, names, order = results["tasks"], results["class_names"], results["class_order"]
    known = list(accumulate(len(task["new_classes"]) for task in tasks))
    fates = []
    for place, class_id in enumerate(order[: known[-1]]):
        first = next(number for number, count in enumerate(known) if place < count)
        learnt, final = (_percent(per_class(tasks[number])[place]) for number in (first, -1))
        then, now = (tasks[number].get("confusion") for number in (first, -1))
        went, came = _mistaken(then, now, place, [names[c] for c in order])
        fates.append(Fate(class_id, names[class_id], tasks[first]["index"], learnt, final, went, came))
    return fates


def forgotten(fates: Sequence[Fate], last: int) -> list[Fate]:
    """Classes learnt before the last task whose loss is known, the worst first."""
    return sorted((f for f in fates if f.lost is not None and f.task < last), key=lambda f: -(f.lost or 0))


def heat_over_tasks(results: Mapping[str, Any]) -> Heat:
    """Score of every class (rows) after every task (columns)."""
    tasks, names = results["tasks"], results["class_names"]
    rows = []
    for place, class_id in enumerate(results["class_order"][: len(per_class(tasks[-1]))]):
        found = [per_class(task) for task in tasks]
        rows.append((names[class_id], [_percent(row[place]) if place < len(row) else None for row in found]))
    return Heat([f"task {task['index']}" for task in tasks], rows)


def heat_of_confusion(results: Mapping[str, Any]) -> Heat | None:
    """At the end: of the pixels of a class (rows), the share that is called each class (columns)."""
    matrix = results["tasks"][-1].get("confusion")
    if not matrix:
        return None
    names = [results["class_names"][c] for c in results["class_order"][: len(matrix)]]
    rows = []
    for name, row in zip(names, matrix, strict=True):
        total = sum(row)
        rows.append((name, [100 * count / total if total else None for count in row]))
    return Heat(names, rows)


def in_short(results: Mapping[str, Any], fates: Sequence[Fate]) -> list[str]:
    """The findings of a run in sentences: its scores, what was forgotten, what was hardly learnt.

    Of what was forgotten it is said what it is mistaken for more often than when it was learnt.
    """
    tasks, last = results["tasks"], results["tasks"][-1]["index"]
    said = [_scores(results)]
    objects = [fate for fate in fates if fate.class_id or "accuracy" in tasks[-1]]  # a background is no finding
    worst = [fate for fate in forgotten(objects, last) if (fate.lost or 0) >= 1][:2]
    for place, fate in enumerate(worst):
        head = "Forgotten most" if place == 0 else "Next"
        said.append(f"{head}: {fate.name}, {fate.learnt:.0f} % when learnt in task {fate.task}, {fate.final:.0f} % now"
                    f"{_why(fate)}.")  # fmt: skip
    if len(tasks) > 1 and not worst:
        said.append("No class has lost a point since it was learnt.")
    poor = [fate for fate in objects if fate.learnt is not None and fate.learnt < 10]
    if poor:
        named = ", ".join(f"{fate.name} ({fate.learnt:.0f} % in task {fate.task})" for fate in poor[:4])
        said.append(f"Hardly learnt at all: {named}{' and others' if len(poor) > 4 else ''}.")
    return said


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as names with dots, and their values as text."""
    rows = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
            rows.append((f"{prefix}{key}", text or "-"))
    return rows


def _scores(results: Mapping[str, Any]) -> str:
    last = results["tasks"][-1]
    if "accuracy" in last:
        bwt = results["bwt"]
        change = "" if bwt is None else f", backward transfer {100 * bwt:+.1f} points"
        return f"Mean accuracy over the tasks {100 * results['acc']:.1f} %{change}; the task of an image is told."
    groups = {name: _percent(value) for name, value in last["groups"].items()}

    def both(name: str, bare: str) -> str:
        return f"{_number(groups[name])} ({_number(groups[bare])} without the background)"

    new = f", new {_number(groups['new'])}" if groups["new"] is not None else ""
    return f"Mean IoU after the last task: all classes {both('all', 'all_no_bg')}, old {both('old', 'old_no_bg')}{new}."


def _why(fate: Fate) -> str:
    """What has grown since the class was learnt; what there is, if nothing has."""
    grown = [[other for other in others if other.grown] for others in (fate.went, fate.came)]
    went, came = grown if any(grown) else (fate.went, [])
    return _named("; its pixels are called", went) + _named(f"; wrongly called {fate.name}:", came)


def _named(head: str, others: Sequence[Mistaken]) -> str:
    shares = (f"{other.name} ({other.now:.0f} %, then {other.then:.0f} %)" for other in others[:_MOST])
    return f"{head} {', '.join(shares)}" if others else ""


def _mistaken(then: Matrix | None, now: Matrix | None, place: int, names: Sequence[str]) -> list[list[Mistaken]]:
    """`went` and `came` of the class in this place, from confusion matrices (rows: the truth)."""
    if then is None or now is None:
        return [[], []]
    return [_most(names, *sides) for sides in zip(_shares(now, place), _shares(then, place), strict=True)]


def _shares(matrix: Matrix, place: int) -> tuple[list[float], list[float]]:
    """Row and column of a class in a confusion matrix (rows: the truth), in % of its own pixels; 0 for itself."""
    total = sum(matrix[place])
    pixels = matrix[place], [row[place] for row in matrix]
    shares = [[100 * count / total if total else 0.0 for count in counts] for counts in pixels]
    for values in shares:
        values[place] = 0.0
    return shares[0], shares[1]


def _most(names: Sequence[str], now: Sequence[float], then: Sequence[float]) -> list[Mistaken]:
    """The most grown ones first, then the largest ones."""
    before = [*then, *[0.0] * (len(now) - len(then))]
    found = [Mistaken(*facts) for facts in zip(names, now, before, strict=False) if facts[1] >= _SHARE]
    found.sort(key=lambda other: (-(other.now - other.then) if other.grown else 0.0, -other.now))
    return found[:_MOST]


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
