"""In which settings two runs differ, and which of them a first task does not see."""

from typing import Any

from css.config.files import FINGERPRINT

# Where things lie and how fast they go, not what is computed.
_NOT_COMPARED = {"data_root", "runs", "name", "task0"}
_FIRST_TASK_IGNORES = {"method", "options", "protocol", "setting", "order", "classes", "future", "void", "evaluation"}
_FIRST_TASK_TRAIN_IGNORES = {"later_epochs", "later_lr", "later_batch_norm"}


def differences(mine: dict, other: dict, first_task_only: bool = False) -> list[str]:
    """Settings in which two configurations (as `as_dict` gives them) differ, one phrase each."""

    def flat(values: dict, prefix: str = "") -> dict[str, Any]:
        result = {}
        for key, value in values.items():
            if isinstance(value, dict):
                result.update(flat(value, f"{prefix}{key}."))
            else:
                result[f"{prefix}{key}"] = value
        return result

    ignored = _NOT_COMPARED | {"train.workers"}
    if first_task_only:
        ignored |= _FIRST_TASK_IGNORES | {FINGERPRINT} | {f"train.{name}" for name in _FIRST_TASK_TRAIN_IGNORES}
    first, second = flat(mine), flat(other)
    return [
        f"{key} is {first.get(key)!r} here and {second.get(key)!r} there"
        for key in sorted(first.keys() | second.keys())
        if key not in ignored and key.split(".")[0] not in ignored and first.get(key) != second.get(key)
    ]
