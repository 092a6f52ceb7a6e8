"""Charts as SVG in the text of a page: no library, no script; colours are those of the page, dark or light."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

Points = Sequence[tuple[float, float]]

COLOURS = 8  # in the style sheet, as --s0 to --s7; lines beyond them are dashed
_WIDTH, _HEIGHT = 360, 230  # units; as wide as a phone, so that letters keep their size there
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 12, 36


class Axis(NamedTuple):
    """Which numbers lie between which two places of a chart."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a number."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return round(self.start + (value - low) / ((high - low) or 1) * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers within the axis."""
        if self.log:
            return _log_ticks(self.low, self.high)
        step = _round_step((self.high - self.low) / 5)
        first = math.ceil(self.low / step - 1e-9)
        return [n * step for n in range(first, math.floor(self.high / step + 1e-9) + 1)]


def line_chart(title: str, lines: Mapping[str, Points], x_label: str, y_label: str, *, log: bool = False,
               dots: bool = False) -> Markup:  # fmt: skip
    """One line for each name, with a legend below. Points (x, y) whose y is not finite are left out.

    Args:
        title: What is shown, also read aloud by screen readers.
        lines: Points by name.
        x_label: Name of the x axis.
        y_label: Name of the y axis, with the unit.
        log: Whether the y axis is logarithmic; every y must be above 0.
        dots: Whether points are marked and x values are whole numbers.
    """
    kept = {name: [point for point in line if math.isfinite(point[1])] for name, line in lines.items()}
    values = [point for line in kept.values() for point in line]
    if not values:
        return Markup()
    xs, ys = zip(*values, strict=True)
    across = Axis(min(xs), max(xs), _LEFT, _WIDTH - _RIGHT)
    low, high = _fitted(min(ys), max(ys), log)
    up = Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)
    parts = [_grid(across, up, x_label, y_label, whole=dots)]
    for number, line in enumerate(kept.values()):
        style = _stroke(number)
        path = " ".join(f"{across.at(x)},{up.at(y)}" for x, y in line)
        parts.append(Markup('<polyline points="{}" fill="none" style="{}"/>').format(path, style))
        if dots:
            parts += [
                Markup('<circle cx="{}" cy="{}" r="3" style="fill:var(--s{})"><title>{}: {:g}, {:.4g}</title></circle>')
                .format(across.at(x), up.at(y), number % COLOURS, list(kept)[number], x, y)
                for x, y in line
            ]  # fmt: skip
    return _figure(title, parts, _HEIGHT) + _legend(list(kept))


def dot_chart(title: str, rows: Mapping[str, Sequence[float]], x_label: str) -> Markup:
    """One row for each name: every value as a dot, their mean as a line, one standard deviation to both sides."""
    kept = {name: [value for value in values if math.isfinite(value)] for name, values in rows.items()}
    values = list(itertools.chain(*kept.values()))
    if not values:
        return Markup()
    step, left = 26, 120
    height = _TOP + step * len(kept) + _BOTTOM
    low, high = _fitted(min(values), max(values), log=False)
    across = Axis(low, high, left, _WIDTH - _RIGHT)
    parts = [
        Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="grid"/><text x="{0}" y="{3}" class="mid">{4:g}</text>')
        .format(across.at(tick), _TOP, height - _BOTTOM, height - _BOTTOM + 14, tick)
        for tick in across.ticks()
    ]  # fmt: skip
    parts.append(Markup('<text x="{}" y="{}" class="mid">{}</text>').format((left + _WIDTH) / 2, height - 4, x_label))
    for number, (name, row) in enumerate(kept.items()):
        y = _TOP + step * (number + 0.5)
        parts.append(Markup('<text x="{}" y="{}" class="end">{}</text>').format(left - 6, y + 4, _short(name, 18)))
        parts += _dots(across, y, name, row)
    return _figure(title, parts, height)


def _dots(across: Axis, y: float, name: str, row: Sequence[float]) -> list[Markup]:
    if not row:
        return []
    mean = sum(row) / len(row)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in row) / (len(row) - 1)) if len(row) > 1 else 0.0
    ends = [across.at(min(across.high, max(across.low, mean + sign * deviation))) for sign in (-1, 1)]
    return [
        Markup('<line x1="{}" x2="{}" y1="{y}" y2="{y}" class="spread"/>').format(*ends, y=y),
        Markup('<line x1="{0}" x2="{0}" y1="{1}" y2="{2}" class="mean"/>').format(across.at(mean), y - 8, y + 8),
        *(
            Markup('<circle cx="{}" cy="{}" r="3.5" class="seed"><title>{}: {:.2f}</title></circle>').format(
                across.at(value), y, name, value
            )
            for value in row
        ),
    ]


def _grid(across: Axis, up: Axis, x_label: str, y_label: str, whole: bool) -> Markup:
    ticks = [tick for tick in across.ticks() if not whole or tick == round(tick)]
    parts = [
        Markup('<line x1="{0}" x2="{1}" y1="{2}" y2="{2}" class="grid"/><text x="{3}" y="{4}" class="end">{5:g}</text>')
        .format(across.start, across.end, up.at(tick), across.start - 6, up.at(tick) + 4, tick)
        for tick in up.ticks()
    ]  # fmt: skip
    parts += [
        Markup('<text x="{}" y="{}" class="mid">{:g}</text>').format(across.at(tick), up.start + 15, tick)
        for tick in ticks
    ]
    middle = (across.start + across.end) / 2
    parts.append(Markup('<text x="{}" y="{}" class="mid">{}</text>').format(middle, up.start + 31, x_label))
    parts.append(Markup('<text transform="translate(11 {}) rotate(-90)" class="mid">{}</text>').format(
        (up.start + up.end) / 2, y_label))  # fmt: skip
    return Markup().join(parts)


def _figure(title: str, parts: Sequence[Markup], height: float) -> Markup:
    head = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">').format(_WIDTH, height, title)
    return head + Markup().join(parts) + Markup("</svg>")


def _legend(names: Sequence[str]) -> Markup:
    if len(names) < 2:
        return Markup()
    line = '<span><svg viewBox="0 0 24 10" class="key" aria-hidden="true"><path d="M0 5H24" style="{}"/></svg>{}</span>'
    return Markup('<p class="legend">{}</p>').format(
        Markup().join(Markup(line).format(_stroke(number), name) for number, name in enumerate(names))
    )


def _stroke(number: int) -> str:
    dash = ("", ";stroke-dasharray:6 3", ";stroke-dasharray:2 3")[number // COLOURS % 3]
    return f"stroke:var(--s{number % COLOURS}){dash}"


def _fitted(low: float, high: float, log: bool) -> tuple[float, float]:
    """The range of the data with a margin, so that no point lies on the edge."""
    if log:
        return low / 1.2, high * 1.2
    margin = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _round_step(least: float) -> float:
    if least <= 0:
        return 1.0
    power = 10 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= least * (1 - 1e-9))


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    few = len(powers) > 4
    marks = [factor * 10.0**power for power in powers for factor in ((1,) if few else (1, 2, 5))]
    return [mark for mark in marks if low <= mark <= high]


def _short(name: str, most: int) -> str:
    return escape(name if len(name) <= most else f"{name[: most - 1]}…")
