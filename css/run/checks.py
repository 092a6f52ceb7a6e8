"""Everything that a user can get wrong in the settings, said before anything is written."""

import dataclasses
from typing import Any

import torch

from css.config.options import not_negative, require_values
from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.kinds.choice import kind_of
from css.method.contract import Method
from css.method.registry import make_method
from css.run.first_task import borrowed_first_task
from css.run.folder import (
    task_folder,
)
from css.run.names import require_names
from css.run.stream import make_stream
from css.training.optimizer import require_optimizer
from tasks import InputError, Stream


def require_config(config: RunConfig[Any], world: int) -> None:
    """Raises InputError for settings that cannot work together, before anything is written.

    Args:
        config: All settings.
        world: Number of processes.
    """
    require_names(config)
    _require_ranges(config.train)
    _require_batches(config.train, world)
    _require_batch_norm(config.train)
    method = make_method(config.method, config.options)
    kind_of(config.dataset).check(config, method.segmentation_only)
    _require_features(config.model, config.method, method)
    method.check(config)
    if method.joint and config.task0:
        raise InputError("--task0 cannot be used with joint training, which has a single task of all classes.")


def _require_features(model: ModelConfig, name: str, method: Method) -> None:
    """What the classifiers can see, by method and network."""
    given = f"--model.classifier-features {model.classifier_features}"
    if model.sees_hypercolumns and method.own_head:
        raise InputError(
            f"{given} does not fit --method {name}, which has a head of its own on the decoder's maps; give auto or "
            "decoder."
        )
    units = model.classifier_hidden or 0
    require_values(model, "--model", {"classifier_hidden": (units >= 0, "of at least 0")})
    if units and not model.sees_hypercolumns:
        raise InputError(
            f"--model.classifier-hidden {units} needs --model.classifier-features hypercolumn: the "
            "layer is made of them."
        )
    if not model.classifier_features.endswith("+pretrained"):
        return
    if not method.frozen:
        raise InputError(f"{given} is for hypercolumn and frozen features, not for --method {name}; give hypercolumn.")
    if model.encoder_weights == "none":
        raise InputError(f"{given} needs a pretrained encoder: give --model.encoder-weights, or leave +pretrained out.")


def _require_ranges(train: TrainConfig) -> None:
    """Every number by itself."""

    def require(least: int, *names: str, optional: bool = False) -> None:
        for name in names:
            value = getattr(train, name)
            if not (optional and value is None) and not value >= least:  # not: NaN is no number to train with
                limit = f"at least {least}" if least else "0 or more"
                ending = ", or None" if optional else ""
                raise InputError(f"--train.{name.replace('_', '-')} must be {limit}{ending}.")

    require(1, "epochs", "batch", "accumulate")
    require(0, "workers")
    require(1, "later_epochs", "bn_group", optional=True)
    require(0, "lr", "later_lr", "momentum", "weight_decay")
    require(0, "classifier_lr", "batch_norm_lr", optional=True)
    require_values(train.later_rates, "--train.later-rates", not_negative(train.later_rates, vars(train.later_rates)))
    if not all(0 < point < 1 for point in train.halve_at or ()):
        raise InputError("--train.halve-at must hold shares of the epochs between 0 and 1, for example 0.5.")
    if train.crop < 32 or train.crop % 16:
        raise InputError(f"--train.crop {train.crop} must be a multiple of 16 and at least 32 for this network.")


def _require_batches(train: TrainConfig, world: int) -> None:
    """A batch is divided among processes and parts, and each part into groups of BatchNorm."""
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


def _require_batch_norm(train: TrainConfig) -> None:
    """Statistics over all processes, or over groups of one."""
    if train.sync_bn and train.bn_group:
        raise InputError("--train.sync-bn and --train.bn-group exclude each other; add --train.bn-group None.")
    if train.sync_bn and not torch.cuda.is_available():
        raise InputError("--train.sync-bn needs GPUs; on a CPU give --train.bn-group or nothing.")


def resolve(config: RunConfig) -> RunConfig:
    """Replaces "auto" by what this machine and the method do, so that the saved configuration says what was run."""
    model, train, method = config.model, config.train, make_method(config.method, config.options)
    if model.classifier_features == "auto":
        model = dataclasses.replace(model, classifier_features=method.classifier_features)
    if model.classifier_hidden is None:
        model = dataclasses.replace(model, classifier_hidden=method.classifier_hidden if model.sees_hypercolumns else 0)
    if train.precision == "auto":
        train = dataclasses.replace(train, precision="bf16" if _multiplies_bf16() else "fp32")
    return dataclasses.replace(config, model=model, train=train)


def _multiplies_bf16() -> bool:
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def checked_stream(config: RunConfig, world: int) -> Stream:
    """The stream of a configuration, after checking everything a user can get wrong; nothing is written."""
    require_config(config, world)
    require_optimizer(config.train)
    stream = make_stream(config)
    tasks = list(stream)  # every task must have images
    make_method(config.method, config.options).check_tasks(config, tasks)
    if config.task0 and not (task_folder(config.folder, 0) / "result.json").exists():
        borrowed_first_task(config, stream.task(0))
    return stream
