"""The default configuration of a data set and a method, and configurations read back from a run folder."""

from typing import Any

from css.config.files import FINGERPRINT, merge
from css.config.settings import RunConfig
from css.method.registry import default_options, train_settings
from tasks.datasets.registry import find_dataset, full_name


def preset(dataset: str, method: str | None = None) -> RunConfig:
    """The default configuration of a data set and a method, with the method's options. The protocol is left empty.

    Raises InputError for an unknown data set or method.
    """
    dataset = full_name(dataset)
    settings = dict(find_dataset(dataset).settings)
    name = method or settings.get("method", RunConfig.method)
    config = RunConfig(dataset, "", options=default_options(name))
    settings["train"] = {**settings.get("train", {}), **train_settings(name)}
    return merge(config, {**settings, "method": name}, f"data set {dataset}")


def from_dict(values: dict[str, Any], origin: str, **changes: Any) -> RunConfig:
    """The configuration of a run folder, as `read_config` returns it, with `changes`."""
    values = {key: value for key, value in values.items() if key != FINGERPRINT}
    return merge(preset(values["dataset"], values["method"]), values | changes, origin)
