"""A network trained elsewhere as the first task of a run folder."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from css.config.files import CONFIG_FILE, as_dict, read_config, save_config
from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.extend.plan import plan
from css.extend.request import Request
from css.model.foreign import SMP, TORCHVISION, Foreign
from css.report.results import write_results
from css.run.facts import run_facts
from css.run.folder import task_folder
from css.system.files import atomic, read_json, write_json
from css.system.tensors import save_tensors
from tasks.errors import InputError
from tasks.palette import distinct_palette
from tasks.source import BACKGROUND

GROUPS = ("old", "old_no_bg", "new", "all", "all_no_bg", "harmonic")


def is_network(model: Path) -> bool:
    """Whether this is no run folder but a file of weights, or a folder of `save_pretrained`."""
    return model.is_file() or (model / "config.json").is_file()


def adopted(request: Request, architecture: str | None, names: Sequence[str], world: int) -> Request:
    """The same extension, of a run folder beside its result that holds the network.

    Raises InputError as `adopt` and `plan` (for `world` processes); nothing is left behind then.
    """
    run = request.folder.with_name(f"{request.folder.name}.model")
    there = _is_adopted(run, request.model)
    adopt(request.model, architecture, names, run)
    found = dataclasses.replace(request, model=run, out=request.folder)
    try:
        plan(found, world)
    except InputError:
        if not there:
            shutil.rmtree(run)
        raise
    return found


def _is_adopted(run: Path, weights: Path) -> bool:
    """Whether this is the run folder of that network. Raises InputError if it is there, but anything else."""
    if not run.exists():
        return False
    if not (run / CONFIG_FILE).is_file() or read_config(run).get("dataset") != str(weights.resolve()):
        raise InputError(f"{run} is in the way and not made of {weights}; give another folder with --out.")
    return True


def adopt(weights: Path, architecture: str | None, names: Sequence[str], out: Path) -> None:
    """Writes a run folder whose only task is a network of torchvision or smp, as it is.

    Args:
        weights: A folder of smp's `save_pretrained`, or a state dict (.safetensors, or .pth with nothing but tensors).
        architecture: Name of a torchvision network, or smp's config.json; of a folder it is not needed.
        names: Of its channels after the background, which must be channel 0; default: class 1, class 2, ...
        out: The run folder.

    Raises:
        InputError: weights that are no tensors, or do not fit; names that are too few or too many.
    """
    text = _architecture(weights, architecture)
    network = Foreign(text)
    network.adopt(_state(weights), str(weights))
    known = _names(names, len(network.classes), weights)
    train = TrainConfig(batch=8, epochs=10, later_lr=0.01, crop=512, precision="fp32")  # bf16 changes answers
    config: RunConfig[Any] = RunConfig(
        str(weights.resolve()), "first", "frozen", evaluation="whole", runs=out.parent, name=out.name,
        model=ModelConfig(text, "none", "decoder"), train=train,
    )  # fmt: skip
    _write(out, config, network, known)


def _write(out: Path, config: RunConfig, network: Foreign, names: list[str]) -> None:
    classes = network.classes
    task = {
        "index": 0, "new_classes": classes, "train_images": 0, "test_images": 0, "iou": [None] * len(classes),
        "groups": dict.fromkeys(GROUPS), "seconds": {}, "log_bytes": 0,
    }  # fmt: skip
    facts = run_facts(as_dict(config), [classes], names, "", distinct_palette()[: len(names)].tolist())
    with atomic(out) as partial:
        home = task_folder(partial, 0)
        home.mkdir(parents=True)
        save_tensors(home / "model.safetensors", {f"model.{name}": v for name, v in network.state_dict().items()})
        write_json(home / "result.json", task)
        write_results(partial, facts, {"avg": None}, [task], complete=True)
        save_config(dataclasses.replace(config, runs=partial.parent, name=partial.name), "")


def _architecture(weights: Path, given: str | None) -> str:
    """The text that `css.model.foreign` knows."""
    described = weights / "config.json" if weights.is_dir() else Path(given or "")
    if described.suffix == ".json":
        values = read_json(described)
        if not isinstance(values, dict) or "_model_class" not in values:
            raise InputError(f"{described} names no network of smp: give a folder that save_pretrained has written.")
        return SMP + json.dumps(values)
    if given is None:
        raise InputError(
            f"{weights} is a file of weights: say what they are of with --architecture, for example deeplabv3_resnet50 "
            "(torchvision), or the path of smp's config.json."
        )
    return TORCHVISION + given


def _state(weights: Path) -> dict[str, Tensor]:
    path = weights / "model.safetensors" if weights.is_dir() else weights
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); replace it by a complete file.") from None
    except Exception as error:  # torch raises several for anything but tensors
        reason = type(error).__name__
        raise InputError(f"{path} holds more than tensors, or is damaged ({reason}); save a state_dict.") from None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path} is not a plain dict of tensors; save the network's state_dict().")
    return state


def _names(given: Sequence[str], channels: int, weights: Path) -> list[str]:
    names = list(given) or [f"class {number}" for number in range(1, channels)]
    if len(names) != channels - 1 or len(set(names)) != len(names):
        raise InputError(
            f"--names must be {channels - 1} different names, of the channels of {weights} after the background "
            f"(channel {BACKGROUND}); it holds {len(set(names))}."
        )
    return ["background", *names]
