"""Every setting of a run. Field docstrings are the help texts of the command line."""

import dataclasses
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_type_hints

import torch
import tyro
import yaml
from pydantic import TypeAdapter, ValidationError

from css.batchnorm import BatchNormMode
from css.files import write_text
from css.kinds import kind_of
from css.method import Method, NoOptions, method_class
from tasks import InputError

OptionsT = TypeVar("OptionsT")
ConfigT = TypeVar("ConfigT")
FILE = "config.yaml"  # in every run folder
FINGERPRINT = "data_fingerprint"  # kept beside the settings, so that a run is never resumed with other data


@dataclass(frozen=True)
class ModelConfig:
    encoder: str = "resnet101"
    """Any encoder of segmentation-models-pytorch that can work at output stride 16."""
    encoder_weights: str = "imagenet"
    """none, imagenet (downloaded by smp) or the path of a file of the same architecture."""


@dataclass(frozen=True)
class TrainConfig:
    epochs: int = 30
    """Epochs per task."""
    later_epochs: int | None = None
    """Epochs of the tasks after the first, if different."""
    batch: int = 24
    """Images per optimiser step, over all processes."""
    accumulate: int = 1
    """Split each step into this many smaller batches (less memory; BatchNorm sees the smaller ones)."""
    crop: int = 512
    """Side of the training and test crops in pixels, a multiple of 16."""
    lr: float = 0.01
    """Learning rate of the first task (poly 0.9 per iteration)."""
    later_lr: float = 0.001
    """Learning rate of the tasks after the first."""
    momentum: float = 0.9
    """Nesterov momentum."""
    weight_decay: float = 1e-4
    """Weight decay on every parameter."""
    optimizer: Literal["sgd", "adam", "apex"] = "sgd"
    """torch's fused SGD, torch's Adam, or NVIDIA apex' FusedSGD."""
    halve_at: tuple[float, ...] | None = None
    """Halve the learning rates at these shares of the epochs (0.5: halfway), instead of poly 0.9."""
    classifier_lr: float | None = None
    """Learning rate of the classifiers, in every task, if different; they have no weight decay then."""
    batch_norm_lr: float | None = None
    """Learning rate of BatchNorm's weights and biases, in every task, if different."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Autocast type; auto is bf16 where the hardware multiplies it (GPU, CPU with AMX or AVX512-BF16), else fp32."""
    bn_group: int | None = None
    """BatchNorm statistics over groups of this many images: 12 on one GPU with --train.batch 24 is "2 x 12 images"."""
    sync_bn: bool = False
    """BatchNorm statistics over the batch of all processes (GPUs only)."""
    later_batch_norm: BatchNormMode = "train"
    """BatchNorm in the tasks after the first: trained (as published), normalising with running statistics that stay as
    they are (freeze-stats), or unchanged altogether (freeze)."""
    workers: int = 2
    """Processes that decode images, per training process. Does not change results."""


@dataclass(frozen=True)
class RunConfig(Generic[OptionsT]):
    dataset: tyro.conf.Positional[str]
    """voc or shapes; with one label per image: cifar100, tiny-imagenet or shapes-cls."""
    protocol: tyro.conf.Positional[str]
    """"A-B": A classes first, then B at a time, for example 15-1; for image labels "K-split": K equal tasks."""
    method: str = "plop"
    """Name of a method (see css list), or package.module:Class."""
    setting: Literal["overlap", "disjoint", "sequential"] = "overlap"
    """Which images a task sees, and whether old classes keep their labels in it (sequential)."""
    seed: int = 0
    """Seed of initialisation, order and augmentation."""
    classes: tuple[str, ...] = ()
    """Subset of the classes, by name or id."""
    order: tuple[str, ...] = ()
    """Order of learning, by name or id; default: by id."""
    future: Literal["background", "ignore"] = "background"
    """Classes not seen yet in the test masks: background (PLOP) or ignored (MiB)."""
    void: Literal["ignore", "background"] = "ignore"
    """Void pixels in the training masks: ignored (PLOP) or background (MiB)."""
    evaluation: Literal["crop", "whole"] = "crop"
    """Test on centre crops, as published, or on whole images."""
    data_root: Path | None = None
    """Folder of the data set; default: $DATA_ROOT, else ./data."""
    runs: Path = Path("runs")
    """Folder of all run folders."""
    name: str | None = None
    """Name of the run folder; default: made from data set, protocol, setting, method and seed."""
    task0: Path | None = None
    """Start from the finished first task of this run folder."""
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    options: OptionsT = field(default_factory=NoOptions)
    """Those of the method."""

    @property
    def folder(self) -> Path:
        method = self.method.replace(":", ".")
        return self.runs / (self.name or f"{self.dataset}-{self.protocol}-{self.setting}-{method}-s{self.seed}")

    def epochs(self, task: int) -> int:
        return self.train.epochs if task == 0 or self.train.later_epochs is None else self.train.later_epochs

    def lr(self, task: int) -> float:
        return self.train.lr if task == 0 else self.train.later_lr

    def batch_norm(self, task: int) -> BatchNormMode:
        return "train" if task == 0 else self.train.later_batch_norm


# As Adam-NSCL and Connector train on 10-split CIFAR-100.
_PREACT = ModelConfig(encoder="preact18", encoder_weights="none")
_NSCL = TrainConfig(
    epochs=80, batch=32, crop=32, optimizer="adam", lr=1e-4, later_lr=5e-5, classifier_lr=1e-3, batch_norm_lr=5e-4,
    weight_decay=5e-5, halve_at=(0.375, 0.75),
)  # fmt: skip

# What differs from the published VOC settings above. "shapes" is sized for two CPU cores.
PRESETS: dict[str, dict[str, Any]] = {
    "voc": {"method": "plop+s2mf", "train": TrainConfig(bn_group=12)},  # 2 GPUs x 12 images, BatchNorm not synchronised
    "shapes": {
        "model": ModelConfig(encoder="resnet18", encoder_weights="none"),
        "train": TrainConfig(epochs=10, later_epochs=8, batch=16, crop=96, lr=0.05, later_lr=0.005, workers=1),
    },
    "cifar100": {"method": "finetune+s2mf", "model": _PREACT, "train": _NSCL},
    "tiny-imagenet": {
        "method": "finetune+s2mf", "model": _PREACT, "train": dataclasses.replace(_NSCL, crop=64, batch=16, lr=5e-5),
    },
    "shapes-cls": {
        "method": "finetune+s2mf", "model": ModelConfig(encoder="preact18-8", encoder_weights="none"),
        "train": dataclasses.replace(_NSCL, epochs=10, lr=2e-3, later_lr=1e-3, classifier_lr=5e-3, batch_norm_lr=2e-3,
                                     workers=1),
    },
}  # fmt: skip


def preset(dataset: str, method: str | None = None) -> RunConfig:
    """The default configuration of a data set, with the options of a method. The protocol is left empty."""
    if dataset not in PRESETS:
        raise InputError(f"Data set {dataset!r} is unknown; choose from {', '.join(PRESETS)}.")
    values = {"method": "plop", **PRESETS[dataset]}
    values["method"] = method or values["method"]
    return RunConfig(dataset, "", **values, options=method_class(values["method"]).Options())


def check(config: RunConfig, world: int) -> None:
    """Raises InputError for settings that cannot work together, before anything is written."""
    train = config.train
    for name in ("epochs", "batch", "accumulate"):
        if getattr(train, name) < 1:
            raise InputError(f"--train.{name} must be at least 1.")
    if config.seed < 0:
        raise InputError("--seed must be 0 or more.")
    if train.workers < 0:
        raise InputError("--train.workers must be 0 or more.")
    for name in ("later_epochs", "bn_group"):
        if getattr(train, name) is not None and getattr(train, name) < 1:
            raise InputError(f"--train.{name.replace('_', '-')} must be at least 1, or None.")
    for name in ("lr", "later_lr", "momentum", "weight_decay"):
        if not getattr(train, name) >= 0:
            raise InputError(f"--train.{name.replace('_', '-')} must be 0 or more.")
    for name in ("classifier_lr", "batch_norm_lr"):
        if getattr(train, name) is not None and not getattr(train, name) >= 0:
            raise InputError(f"--train.{name.replace('_', '-')} must be 0 or more, or None.")
    if not all(0 < point < 1 for point in train.halve_at or ()):
        raise InputError("--train.halve-at must hold shares of the epochs between 0 and 1, for example 0.5.")
    if train.crop < 32 or train.crop % 16:
        raise InputError(f"--train.crop {train.crop} must be a multiple of 16 and at least 32 for this network.")
    if train.batch % (world * train.accumulate):
        raise InputError(
            f"--train.batch {train.batch} cannot be divided among {world} processes and --train.accumulate "
            f"{train.accumulate}; choose a multiple of {world * train.accumulate}, or fewer processes with GPUS=n."
        )
    share = train.batch // (world * train.accumulate)
    together = min(share, train.bn_group or share)
    if share % together:
        raise InputError(
            f"--train.bn-group {train.bn_group} does not divide the {share} images of one forward pass; "
            "give another size, or None to normalise over all of them."
        )
    if together < 2 and not (train.sync_bn and world > 1):
        raise InputError(
            "BatchNorm cannot be trained on one image at a time: raise --train.batch (or --train.bn-group), "
            "or lower --train.accumulate, to at least 2 images per forward pass."
        )
    if train.sync_bn and train.bn_group:
        raise InputError("--train.sync-bn and --train.bn-group exclude each other; add --train.bn-group None.")
    if train.sync_bn and not torch.cuda.is_available():
        raise InputError("--train.sync-bn needs GPUs; on a CPU give --train.bn-group or nothing.")
    method: Method = method_class(config.method)(config.options)
    kind_of(config.dataset).check(config, method)
    method.check(config)
    if method.joint and config.task0:
        raise InputError("--task0 cannot be used with joint training, which has a single task of all classes.")


def resolve(config: RunConfig) -> RunConfig:
    """Replaces "auto" by what this machine does, so that the saved configuration says what was run."""
    if config.train.precision != "auto":
        return config
    bf16 = (
        torch.cuda.is_bf16_supported(including_emulation=False)
        if torch.cuda.is_available()
        else torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, precision="bf16" if bf16 else "fp32"))


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
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise InputError(f"{origin}: {key} must hold settings, one per line.")
            values[key] = merge(current, value, f"{origin}, {key}")
            continue
        try:
            # Not strict: YAML reads 1e-4 as a text, and class ids as numbers.
            values[key] = TypeAdapter(hints[key], config={"coerce_numbers_to_str": True}).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{origin}: {key} cannot be {value!r}: {error.errors()[0]['msg']}.") from None
    return dataclasses.replace(config, **values)


def from_dict(values: dict[str, Any], origin: str, **changes: Any) -> RunConfig:
    """The configuration of a run folder, as `read` returns it, with `changes`."""
    values = {key: value for key, value in values.items() if key != FINGERPRINT}
    return merge(preset(values["dataset"], values["method"]), values | changes, origin)


def data_root(given: Path | None) -> Path:
    """--data-root, else $DATA_ROOT, else ./data."""
    return given or Path(os.environ.get("DATA_ROOT", "data"))


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


def save(config: RunConfig, fingerprint: str) -> None:
    values = as_dict(config) | {FINGERPRINT: fingerprint}
    write_text(config.folder / FILE, yaml.safe_dump(values, sort_keys=False))


def read(folder: Path) -> dict[str, Any]:
    """The configuration a run folder was made with, as plain values."""
    return read_yaml(folder / FILE)


def read_yaml(path: Path) -> dict[str, Any]:
    """Raises InputError if the file is absent or holds no settings."""
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; check the path.") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path} is not readable YAML ({str(error).splitlines()[0]}).") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} holds no settings.")
    return values
