"""Every setting of a run. Field docstrings are the help texts of the command line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar

import tyro

OptionsT = TypeVar("OptionsT")
BatchNormMode = Literal["train", "freeze", "freeze-stats"]
ClassifierFeatures = Literal["auto", "decoder", "hypercolumn", "hypercolumn+pretrained"]


# What a setting decides, in the metadata of its field. `css.config.compare` reads it.
EVERY = {"decides": "every task"}
LATER = {"decides": "later tasks"}  # or the first one by its images and classes, which are compared as such
PLACE = {"decides": "place"}  # where things lie and how fast they go, not what is computed


@dataclass(frozen=True)
class NoOptions:
    """For methods without a setting of their own."""


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    encoder: str = field(default="resnet101", metadata=EVERY)
    """Any encoder of segmentation-models-pytorch for output stride 16, or tu-NAME of timm (docs/encoders.md)."""
    encoder_weights: str = field(default="imagenet", metadata=EVERY)
    """none, imagenet (downloaded by smp) or the path of a file of the same architecture."""
    classifier_features: ClassifierFeatures = field(default="auto", metadata={**LATER, "before": "decoder"})
    """What the classifiers see from the end of the first task on: the decoder's features, or hypercolumns: the last
    stages and the decoder on directions that are fitted then, and stay; with +pretrained also the last stages of the
    encoder as it was before the first task. auto is what the method is made for."""
    classifier_hidden: int | None = field(default=None, metadata={**LATER, "before": 0})
    """Units of a hidden layer between hypercolumns and classifiers, beside the straight way; 0 for none. None is what
    the method is made for."""

    @property
    def sees_hypercolumns(self) -> bool:
        """Whether the classifiers see hypercolumns, of one network or of two."""
        return self.classifier_features.startswith("hypercolumn")


@dataclass(frozen=True)
class Rates:
    """Factors of the learning rate in the tasks after the first."""

    encoder: float = field(default=1.0, metadata=LATER)
    """Factor of the learning rate of the encoder."""
    decoder: float = field(default=1.0, metadata=LATER)
    """That of the decoder."""
    old_classifiers: float = field(default=1.0, metadata=LATER)
    """That of the classifiers of earlier tasks."""
    new_classifier: float = field(default=1.0, metadata=LATER)
    """That of the classifier of the task."""

    def by_prefix(self, task: int) -> dict[str, float]:
        """By the beginning of the names of a Segmenter's parameters in this task; the longest one counts."""
        return {
            "encoder.": self.encoder, "decoder.": self.decoder, "classifiers.": self.old_classifiers,
            f"classifiers.{task}.": self.new_classifier,
        }  # fmt: skip


@dataclass(frozen=True)
class TrainConfig:
    """How a task is trained."""

    epochs: int = field(default=30, metadata=EVERY)
    """Epochs per task."""
    later_epochs: int | None = field(default=None, metadata=LATER)
    """Epochs of the tasks after the first, if different."""
    batch: int = field(default=24, metadata=EVERY)
    """Images per optimiser step, over all processes."""
    accumulate: int = field(default=1, metadata=EVERY)
    """Split each step into this many smaller batches (less memory; BatchNorm sees the smaller ones)."""
    crop: int = field(default=512, metadata=EVERY)
    """Side of the training and test crops in pixels, a multiple of 16."""
    lr: float = field(default=0.01, metadata=EVERY)
    """Learning rate of the first task (poly 0.9 per iteration)."""
    later_lr: float = field(default=0.001, metadata=LATER)
    """Learning rate of the tasks after the first."""
    momentum: float = field(default=0.9, metadata=EVERY)
    """Nesterov momentum."""
    weight_decay: float = field(default=1e-4, metadata=EVERY)
    """Weight decay on every parameter."""
    optimizer: Literal["sgd", "adam", "apex"] = field(default="sgd", metadata=EVERY)
    """torch's fused SGD, torch's Adam, or NVIDIA apex' FusedSGD."""
    halve_at: tuple[float, ...] | None = field(default=None, metadata=EVERY)
    """Halve the learning rates at these shares of the epochs (0.5: halfway), instead of poly 0.9."""
    classifier_lr: float | None = field(default=None, metadata=EVERY)
    """Learning rate of the classifiers, in every task, if different; they have no weight decay then."""
    batch_norm_lr: float | None = field(default=None, metadata=EVERY)
    """Learning rate of BatchNorm's weights and biases, in every task, if different."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = field(default="auto", metadata=EVERY)
    """Autocast type; auto is bf16 where the hardware multiplies it (GPU, CPU with AMX or AVX512-BF16), else fp32."""
    bn_group: int | None = field(default=None, metadata=EVERY)
    """BatchNorm statistics over groups of this many images: 12 on one GPU with --train.batch 24 is "2 x 12 images"."""
    sync_bn: bool = field(default=False, metadata=EVERY)
    """BatchNorm statistics over the batch of all processes (GPUs only)."""
    later_batch_norm: BatchNormMode = field(default="train", metadata=LATER)
    """BatchNorm in the tasks after the first: trained (as published), normalising with running statistics that stay as
    they are (freeze-stats), or unchanged altogether (freeze)."""
    later_rates: Rates = field(default_factory=Rates, metadata=LATER)
    """Parts of the network that learn at another rate in the tasks after the first."""
    workers: int = field(default=2, metadata=PLACE)
    """Processes that decode images, per training process. Does not change results."""


@dataclass(frozen=True)
class RunConfig(Generic[OptionsT]):
    """One run: a stream, a method and its options, and how both are trained and tested."""

    dataset: tyro.conf.Positional[str] = field(metadata=EVERY)
    """voc, ade20k, cityscapes, shapes; with one label per image: cifar100, tiny-imagenet, shapes-cls; or your own: a
    folder with data.yaml (see css data), or package.module:Class."""
    protocol: tyro.conf.Positional[str] = field(metadata=LATER)
    """"A-B": A classes first, then B at a time, for example 15-1, "A-0": all in one task, for css extend; for image
    labels "K-split": K equal tasks."""
    method: str = field(default="plop", metadata=LATER)
    """Name of a method (see css list), or package.module:Class."""
    setting: Literal["overlap", "disjoint", "sequential", "partitioned"] = field(default="overlap", metadata=LATER)
    """Which images a task sees (partitioned: each image in one task), and whether old classes keep their labels in it
    (sequential)."""
    seed: int = field(default=0, metadata=EVERY)
    """Seed of initialisation, order and augmentation."""
    classes: tuple[str, ...] = field(default=(), metadata=LATER)
    """Subset of the classes, by name or id."""
    order: tuple[str, ...] = field(default=(), metadata=LATER)
    """Order of learning, by name or id; default: by id."""
    future: Literal["background", "ignore"] = field(default="background", metadata=LATER)
    """Classes not seen yet in the test masks: background (PLOP) or ignored (MiB)."""
    void: Literal["ignore", "background"] = field(default="ignore", metadata=LATER)
    """Void pixels in the training masks: ignored (PLOP) or background (MiB)."""
    evaluation: Literal["crop", "whole"] = field(default="crop", metadata=LATER)
    """Test on centre crops, as published, or on whole images."""
    data_root: Path | None = field(default=None, metadata=PLACE)
    """Folder of the data set; default: $DATA_ROOT, else ./data."""
    runs: Path = field(default=Path("runs"), metadata=PLACE)
    """Folder of all run folders."""
    name: str | None = field(default=None, metadata=PLACE)
    """Name of the run folder; default: made from data set, protocol, setting, method and seed."""
    track: str | None = field(default=None, metadata=PLACE)
    """Send losses, scores and pictures to tensorboard, wandb, trackio or mlflow, too."""
    keep: Literal["all", "last"] = field(default="all", metadata=PLACE)
    """Models that stay in the run folder: of every task, or of the last finished one alone, from which a killed run
    goes on (docs/cluster.md says what it cannot do without the others)."""
    task0: Path | None = field(default=None, metadata=PLACE)
    """Start from the finished first task of this run folder."""
    model: ModelConfig = field(default_factory=ModelConfig, metadata=EVERY)
    train: TrainConfig = field(default_factory=TrainConfig, metadata=EVERY)
    options: OptionsT = field(default_factory=NoOptions, metadata=LATER)  # type: ignore[assignment]  # of no method yet
    """Those of the method."""

    @property
    def dataset_name(self) -> str:
        """For names of files: of a folder its last part."""
        return Path(self.dataset).name.replace(":", ".")

    @property
    def folder(self) -> Path:
        """The folder of this run."""
        method = self.method.replace(":", ".")
        return self.runs / (self.name or f"{self.dataset_name}-{self.protocol}-{self.setting}-{method}-s{self.seed}")

    def epochs(self, task: int) -> int:
        """Epochs of a task, counted from 0."""
        return self.train.epochs if task == 0 or self.train.later_epochs is None else self.train.later_epochs

    def lr(self, task: int) -> float:
        """Learning rate at the start of a task, counted from 0."""
        return self.train.lr if task == 0 else self.train.later_lr

    def rates(self, task: int) -> dict[str, float]:
        """Factors of the learning rate in a task, by the beginning of the names of parameters."""
        return self.train.later_rates.by_prefix(task) if task else {}

    def batch_norm(self, task: int) -> BatchNormMode:
        """How BatchNorm is trained in a task, counted from 0."""
        return "train" if task == 0 else self.train.later_batch_norm
