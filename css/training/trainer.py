"""The training loop. It knows no method: it minimises the sum of the losses it is given."""

import contextlib
import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from css.config.settings import BatchNormMode, RunConfig
from css.kinds.choice import kind_of
from css.model.batchnorm import group_batch_norm, hold
from css.model.segmenter import Head, Segmenter
from css.model.state import evaluating
from css.system.log import Log
from css.system.processes import Processes
from css.system.progress import say_epoch
from css.system.tensors import load_tensors, save_tensors
from css.training.checkpoint import Stage
from css.training.loaders import autocast, make_loader
from css.training.optimizer import make_optimizer
from css.training.views import FeatureViews, make_views
from tasks import InputError, Task
from tasks.batches import TrainBatches

Losses = Callable[[nn.Module, torch.Tensor, torch.Tensor], dict[str, torch.Tensor]]
OnOptimizer = Callable[[torch.optim.Optimizer], None]


class Trainer:
    """Trains the model of one task at a time; what is unfinished lies in `folder`, so that a killed run can go on.

    Every stage of a task has a name. A stage that was finished before returns at once with its result, so a method
    may simply run through its stages again after a restart.
    """

    def __init__(self, config: RunConfig, processes: Processes, folder: Path, log: Log) -> None:
        self.config, self.processes, self.folder, self.log = config, processes, folder, log
        self.kind = kind_of(config.dataset)
        self.history: list[dict] = []  # mean losses and seconds of every epoch of the task
        self.seconds: dict[str, float] = {}  # of everything else that `once` computed

    def autocast(self) -> torch.autocast:
        """The precision of forward passes, as a context."""
        return autocast(self.config, self.processes)

    def fit(
        self, model: Segmenter | Head, task: Task, losses: Losses, stage: str = "fit", *, epochs: int | None = None,
        lr: float | None = None, batch_norm: BatchNormMode | None = None, rates: Mapping[str, float] | None = None,
        on_optimizer: OnOptimizer | None = None, views: FeatureViews | None = None,
    ) -> None:  # fmt: skip
        """Minimises sum(losses(forward, images, labels).values()) from `model` in place.

        Epochs, start of the learning rate, its factors (see `make_optimizer`) and BatchNorm's mode (see
        `css.model.batchnorm.hold`) are those of the task unless given. `on_optimizer` is shown the optimiser before its
        first step, for example to hang hooks on it; a hook may not keep what changes from step to step, which a restart
        would lose. `views`: what a `Head` sees in place of images.
        Raises InputError for a loss that is not finite; the checkpoint of the last epoch stays where it is.
        """
        epochs = self.config.epochs(task.index) if epochs is None else epochs
        lr = self.config.lr(task.index) if lr is None else lr
        self._prepare_batch_norm(model)
        with hold(model.train(), batch_norm or self.config.batch_norm(task.index)):
            current = self._stage(stage, model, lr, self.config.rates(task.index) if rates is None else rates)
            if on_optimizer:
                on_optimizer(current.optimizer)
            loader, batches = self._loader(task, stage, views)
            done, per_epoch = self._resume(current), len(batches)
            forward = self.processes.distributed(model)
            # disable=None: drawn on terminals only
            quiet, what = not self.processes.is_main or done == epochs or None, f"task {task.index} {stage}"
            with tqdm(total=epochs * per_epoch, initial=done * per_epoch, desc=what, unit="step", disable=quiet) as bar:
                for epoch in range(done, epochs):
                    batches.epoch = epoch
                    self._seed(task.index, stage, epoch)
                    began, sums = time.perf_counter(), dict[str, float]()
                    for iteration, (images, labels) in enumerate(loader, start=epoch * per_epoch):
                        share = self._decay(iteration / (epochs * per_epoch))
                        current.set_rates(share)
                        values = self._step(forward, losses, current, model.normalise(images), labels)
                        where = {"task": task.index, "stage": stage, "epoch": epoch, "iteration": iteration}
                        _require_finite(values, where)
                        self.log.write({**where, "lr": lr * share, **values})
                        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
                        bar.set_postfix({name: f"{value:.3g}" for name, value in values.items()}, refresh=False)
                        bar.update()
                    means = {name: value / per_epoch for name, value in sums.items()}
                    seconds = time.perf_counter() - began
                    self.history.append({"stage": stage, "epoch": epoch, **means, "seconds": seconds})
                    self._save(current, epoch + 1)
                    if not quiet:
                        say_epoch(what, epoch + 1, epochs, means, seconds)
        self.processes.broadcast(model)

    def passes(
        self, task: Task, model: Segmenter, purpose: str, most: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """One pass over the training images as they are seen in training, or over the first `most` batches of it.

        Yields normalised images (B, 3, H, W) and labels (B, H, W), on the device.
        """
        loader, _ = self._loader(task, purpose)
        number = len(loader) if most is None else min(most, len(loader))
        quiet, what = not self.processes.is_main, f"task {task.index} {purpose}"
        batches = tqdm(
            itertools.islice(loader, number), total=number, desc=what, unit="batch", leave=False, disable=quiet or None
        )
        for images, labels in batches:
            yield model.normalise(images), labels.to(self.processes.device)

    def look_once(self, task: Task, model: Segmenter, views: int) -> FeatureViews:
        """Features of the training images in a network that stays as it is, by so many passes.

        Made again after a restart, and the same again: what is random in a pass depends on nothing else.
        Raises InputError if the disk is too small for them.
        """
        found: FeatureViews | None = None
        with torch.random.fork_rng(devices=[]):
            for view in range(views):
                for index, (images, labels) in enumerate(self.passes(task, model, f"view {view}")):
                    with torch.no_grad(), evaluating(model), self.autocast():
                        features = model(images).features
                    if found is None:
                        batches = max(1, len(task.train_indices) // self.config.train.batch)
                        found = make_views(self.folder, features, labels, views, batches, self.processes)
                    found.keep(view, index, features, labels)
        self.processes.wait()
        assert found is not None, "a pass has at least one batch"
        return found

    def once(self, name: str, compute: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """The tensors of a named computation, from disk if it was finished before."""
        path = self.folder / f"{name}.safetensors"
        if self.processes.first(lambda: not path.exists()):
            self._seed(name)
            began = time.perf_counter()
            tensors = compute()
            seconds = time.perf_counter() - began
            self.processes.first(lambda: save_tensors(path, tensors, {"seconds": seconds}))
        tensors, facts = load_tensors(path)
        self.seconds[name] = facts["seconds"]
        return tensors

    def _step(
        self, forward: nn.Module, losses: Losses, stage: Stage, images: torch.Tensor, labels: torch.Tensor
    ) -> dict[str, float]:  # fmt: skip
        """One optimiser step; the mean loss terms over its smaller batches and all processes."""
        labels = labels.to(self.processes.device, non_blocking=True)
        parts = self.config.train.accumulate
        stage.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, torch.Tensor] = {}
        for part, (some_images, some_labels) in enumerate(zip(images.chunk(parts), labels.chunk(parts), strict=True)):
            alone = getattr(forward, "no_sync", contextlib.nullcontext)  # processes wait for each other at the last
            with contextlib.nullcontext() if part == parts - 1 else alone():
                with self.autocast():
                    terms = losses(forward, some_images, some_labels)
                stage.scaler.scale(torch.as_tensor(sum(terms.values())) / parts).backward()
            for name, term in terms.items():
                sums[name] = sums.get(name, 0) + term.detach() / parts
        values = self.processes.sum(torch.stack([*sums.values()]).double()) / self.processes.world
        if values.isfinite().all():  # else the caller stops, and the parameters stay as they are
            stage.scaler.step(stage.optimizer)
            stage.scaler.update()
        return dict(zip(sums, values.tolist(), strict=True))

    def _decay(self, done: float) -> float:
        """Share of the learning rate that is left after this share of a stage: poly 0.9, or halved at given points."""
        points = self.config.train.halve_at
        return (1 - done) ** 0.9 if points is None else 0.5 ** sum(done >= point for point in points)

    def _seed(self, *moment: int | str) -> None:
        """Networks and losses that draw random numbers draw the same ones after a restart."""
        digest = hashlib.sha256(repr((self.config.seed, moment)).encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "big"))

    def _loader(self, task: Task, purpose: str, views: FeatureViews | None = None) -> tuple[DataLoader, TrainBatches]:
        train = self.config.train
        images = task.train(self.kind.train_view(train.crop)) if views is None else views
        seed = [self.config.seed, task.index, *purpose.encode()]
        batches = TrainBatches(len(images), train.batch, seed, self.processes.rank, self.processes.world)
        workers = train.workers if views is None else 0  # nothing to decode
        return make_loader(images, batches, workers, self.processes), batches

    def _prepare_batch_norm(self, model: nn.Module) -> None:
        train = self.config.train
        if train.bn_group:
            group_batch_norm(model, train.bn_group)
        if train.sync_bn and self.processes.world > 1:
            convert_sync_batchnorm(model)

    def _stage(self, name: str, model: nn.Module, lr: float, rates: Mapping[str, float]) -> Stage:
        optimizer = make_optimizer(self.config.train, model, lr, rates)
        scaler = torch.amp.GradScaler(self.processes.device.type, enabled=self.config.train.precision == "fp16")
        return Stage(name, self.folder / f"{name}.safetensors", model, optimizer, scaler)

    def _resume(self, stage: Stage) -> int:
        """Goes back to the last checkpoint of a stage; returns how many of its epochs are done."""
        facts = stage.resume()
        if facts is None:
            return 0
        self.history = facts["history"]
        self.log.truncate(facts["log_bytes"])
        return facts["epochs"]

    def _save(self, stage: Stage, epochs: int) -> None:
        facts = {"epochs": epochs, "history": self.history, "log_bytes": self.log.position()}
        self.processes.first(lambda: stage.save(facts))


def _require_finite(values: dict[str, float], where: dict) -> None:
    loss = sum(values.values())
    if not abs(loss) < float("inf"):  # false for NaN, too
        raise InputError(
            f"The loss is {loss} at task {where['task']}, epoch {where['epoch']}, iteration {where['iteration']} "
            f"({', '.join(f'{name} {value:.3g}' for name, value in values.items())}): lower --train.lr or "
            "--train.later-lr, or use --train.precision fp32. The last good checkpoint is kept; "
            "new settings need another folder (--name)."
        )
