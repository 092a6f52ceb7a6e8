"""In which settings two runs differ, and which of them a first task does not see."""

import dataclasses
from typing import Any

from css.config.files import FINGERPRINT
from css.config.settings import LATER, PLACE, ModelConfig, Rates, RunConfig, TrainConfig

_SECTIONS = {"": RunConfig, "model.": ModelConfig, "train.": TrainConfig, "train.later_rates.": Rates}


def _deciding(what: dict[str, str]) -> set[str]:
    """Names of the settings that decide this, as "train.workers"."""
    return {
        f"{section}{field.name}"
        for section, settings in _SECTIONS.items()
        for field in dataclasses.fields(settings)
        if field.metadata.get("decides") == what["decides"]
    }


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


# A run folder of an earlier version lacks what was added since; it was made with what is the default now, or `before`.
_DEFAULTS = {
    f"{section}{field.name}": field.metadata.get("before", _plain(field.default))
    for section, settings in _SECTIONS.items()
    for field in dataclasses.fields(settings)
    if field.default is not dataclasses.MISSING
}
_NOT_COMPARED = _deciding(PLACE)
_NOT_OF_A_FIRST_TASK = _deciding(LATER) | {FINGERPRINT}


def differences(mine: dict[str, Any], other: dict[str, Any], first_task_only: bool = False) -> list[str]:
    """Settings in which two configurations (as `as_dict` gives them) differ, one phrase each."""
    ignored = _NOT_COMPARED | (_NOT_OF_A_FIRST_TASK if first_task_only else set())
    pairs = [{**_DEFAULTS, **_flat(values)} for values in (mine, other)]
    return [
        "the data are others" if key == FINGERPRINT else f"{key} is {first!r} here and {second!r} there"
        for key in sorted(pairs[0].keys() | pairs[1].keys())
        if key not in ignored and key.split(".")[0] not in ignored
        if (first := pairs[0].get(key)) != (second := pairs[1].get(key))
    ]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
