"""Every setting of a run. Field docstrings are the help texts of the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import tyro

OptionsT = TypeVar("OptionsT")
BatchNormMode = Literal["train", "freeze", "freeze-stats"]


@dataclass(frozen=True)
class NoOptions:
    """For methods without a setting of their own."""


@dataclass(frozen=True)
class ModelConfig:
    encoder: str = "resnet101"
    """Any encoder of segmentation-models-pytorch that works at output stride 16, or tu-NAME of timm: docs/encoders.md."""
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
