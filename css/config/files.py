"""Settings as plain values: config.yaml of a run folder, YAML in general, changes applied to a configuration."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from css.config.settings import RunConfig
from css.system.files import write_text
from css.system.version import require_no_newer, version
from tasks import InputError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ConfigT = TypeVar("ConfigT", bound="DataclassInstance")
CONFIG_FILE = "config.yaml"  # in every run folder
VERSION = "version"  # of the toolkit that made the run folder, beside the settings
FINGERPRINT = "data_fingerprint"  # kept beside the settings, so that a run is never resumed with other data


def as_dict(config: RunConfig) -> dict[str, Any]:
    """Plain values, as they are written to YAML and JSON."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return str(value) if isinstance(value, Path) else value

    return plain(dataclasses.asdict(config))


def merge(config: ConfigT, changes: dict[str, Any], origin: str) -> ConfigT:
    """A configuration, or a part of it, with nested `changes` (as from YAML) applied.

    Raises InputError for an unknown key or a value of another type than the field's.
    """
    hints, values = get_type_hints(type(config)), {}
    for key, value in changes.items():
        if key not in vars(config):
            raise InputError(f"{origin}: unknown setting {key!r}; known are {', '.join(vars(config))}.")
        current = getattr(config, key)
        if dataclasses.is_dataclass(current) and not isinstance(current, type):
            if not isinstance(value, dict):
                raise InputError(f"{origin}: {key} must hold settings, one per line.")
            values[key] = merge(current, value, f"{origin}, {key}")
            continue
        try:
            # Not strict: YAML reads 1e-4 as a text, and class ids as numbers.
            adapter: TypeAdapter[Any] = TypeAdapter(hints[key], config=ConfigDict(coerce_numbers_to_str=True))
            values[key] = adapter.validate_python(value)
        except ValidationError as error:
            raise InputError(f"{origin}: {key} cannot be {value!r}: {error.errors()[0]['msg']}.") from None
    return dataclasses.replace(config, **values)


def save_config(config: RunConfig, fingerprint: str) -> None:
    """Writes config.yaml of a run, with the fingerprint of its data."""
    values = as_dict(config) | {FINGERPRINT: fingerprint, VERSION: version()}
    write_text(config.folder / CONFIG_FILE, yaml.safe_dump(values, sort_keys=False))


def read_config(folder: Path) -> dict[str, Any]:
    """The configuration a run folder was made with, as plain values. Raises InputError for a newer version's."""
    values = read_yaml(folder / CONFIG_FILE)
    require_no_newer(folder, values.pop(VERSION, ""))
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises InputError if it is absent or holds none."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not readable YAML ({str(error).splitlines()[0]}).") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings.")
    return values
