"""Split2MetaFusion (arXiv 2312.07082) around any base method: slow model, fast model, dreams, gated fusion."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from css.config.options import require_values
from css.config.settings import RunConfig
from css.dream.draw import class_palette, draw_dreams
from css.dream.dreamer import Dreamer, DreamOptions, Dreams
from css.dream.layouts import LayoutStatistics
from css.fusion.gates import linear
from css.fusion.meta import FusionOptions, MetaFusion
from css.fusion.reestimate import reestimate_batch_norm
from css.kinds.choice import kind_of
from css.kinds.kind import Kind
from css.method.contract import Method
from css.method.wrapper import BaseT
from css.model.segmenter import Segmenter
from css.model.state import State, classifiers_of, load_state, snapshot
from css.s2mf.alignment import Alignment
from css.s2mf.slow import SlowModel, SlowOptions, divide_epochs
from css.system.tensors import part, prefixed, save_tensors
from css.training.trainer import Trainer
from tasks import InputError, Task
from tasks.palette import palette_of

MODELS_FILE = "s2mf.safetensors"  # in the folder of every task after the first: slow and fast model, gates, dreams


@dataclass(frozen=True)
class S2mfOptions(SlowOptions[BaseT]):
    """Those of the slow model, and of the fast model, the dreams and the fusion."""

    projector: Literal["none", "nsp", "tpnsp", "all"] = "all"  # type: ignore[assignment]  # one more than its base
    """Null space in which the slow model is trained: task-preferred (tpnsp: the paper's, Eq. 5-7), of the features
    (nsp), or none: its updates are not projected. all: every direction is protected, so the slow model is the old one
    (as a task finds it: its background has made room for new classes), and the fast model has all epochs (measured
    best, docs/results/)."""
    fusion: Literal["none", "linear", "meta"] = "meta"
    """How slow and fast model become one: one gate per channel (Eq. 10), one coefficient for all (Eq. 14), or not at
    all: the slow model is trained for all epochs and kept."""
    fast_share: float = 0.25
    """Share of the epochs that the fast model takes beside a slow model that is trained."""
    layouts: Literal["free", "statistics"] = "statistics"
    """Queries of the dreams: any place, size and company, or drawn from histograms of the label maps that are kept from
    every task (a few kB)."""
    current_images: int = 0
    """Training images of this task that join the new dreams in the fusion."""
    alpha: float | None = None
    """Share of the slow model in linear fusion; searched on the dreams if not given."""
    align: bool = True
    """When a task ends, train all classifiers once more, on features of its images and features drawn from Gaussians of
    the old classes (label maps only)."""
    dream: DreamOptions = field(default_factory=DreamOptions)
    fuse: FusionOptions = field(default_factory=FusionOptions)


class Split2MetaFusion(SlowModel):
    """Algorithm 1 of the paper. Both models are trained with the losses of the base method, and share its epochs."""

    suffix = "s2mf"
    needs_linear = True
    Options = S2mfOptions
    summary = "old and new model fused channel by channel, on dreams (arXiv 2312.07082)"

    def __init__(self, options: Any, base: Method) -> None:
        super().__init__(options, base)
        self.layouts = LayoutStatistics()
        self.alignment = Alignment()
        self.kept: dict[str, Tensor] = {}  # of the task that is being learnt, for FILE

    def check(self, config: RunConfig) -> None:
        """Raises InputError for options that are out of range or exclude each other."""
        super().check(config)
        options = self.options
        require_values(options, self.flag, {
            "fast_share": (0 < options.fast_share < 1, "between 0 and 1"),
            "alpha": (options.alpha is None or 0 <= options.alpha <= 1, "from 0 to 1"),
            "current_images": (options.current_images >= 0, "at least 0"),
        })  # fmt: skip
        if options.alpha is not None and options.fusion != "linear":
            raise InputError(
                f"{self.flag}.alpha {options.alpha} needs {self.flag}.fusion linear; {options.fusion} has none."
            )
        if not self._slow_is_old and options.fusion != "none":
            divide_epochs(config.epochs(1), options.fast_share, self.flag)
        if self._slow_is_old and options.fusion == "none":
            raise InputError(
                f"{self.flag}.projector all lets the slow model learn nothing: give {self.flag}.fusion meta or linear, "
                "or another projector."
            )

    def check_tasks(self, config: RunConfig, tasks: Iterable[Task]) -> None:
        """Raises InputError if the dreams cannot show all classes of a task."""
        super().check_tasks(config, tasks)
        kind = kind_of(config.dataset)
        for task in tasks:
            if task.index and self.options.fusion != "none":
                for channels in _dreamt(task, kind):
                    kind.require_room(self.options.dream.count, channels)

    def learn(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        """Trains both models, dreams and fuses; without fusion the slow model alone. Then aligns."""
        if self.options.fusion == "none":
            super().learn(task, model, teacher, trainer)
        else:
            self._split_and_fuse(task, model, teacher, trainer)
        if self._aligns(trainer):
            self.alignment.align(task, model, teacher, trainer)

    def _split_and_fuse(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> None:
        self.kept = {}  # of the task before; frees the memory of its models
        losses = self.base.objective(task, model, teacher, trainer)
        epochs = trainer.config.epochs(task.index)
        if not self._slow_is_old:
            slow_epochs, epochs = divide_epochs(epochs, self.options.fast_share, self.flag)
            self.learn_slow(task, model, trainer, losses, slow_epochs)
        slow = snapshot(model)
        trainer.fit(model, task, losses, "fast", epochs=epochs)
        fast = snapshot(model)
        old, new = self._dreams(task, model, teacher, trainer)
        with trainer.autocast():
            fused = trainer.once("fusion", lambda: self._fuse(task, model, slow, fast, teacher, old, new, trainer))
        model.load_state_dict(part(fused, "state"))
        self.kept = prefixed(slow=slow, fast=fast, old=_tensors(old), new=_tensors(new))
        self.kept |= prefixed(unaligned=classifiers_of(model).tensors())  # before they are aligned
        self.kept |= {name: value for name, value in fused.items() if not name.startswith("state.")}

    @property
    def _slow_is_old(self) -> bool:
        return self.options.projector == "all"

    def _aligns(self, trainer: Trainer) -> bool:
        return self.options.align and trainer.kind.has_layouts

    def _dreams(self, task: Task, model: Segmenter, teacher: Segmenter, trainer: Trainer) -> tuple[Dreams, Dreams]:
        """Of all old classes from the previous model, of the new ones from the fast model (Eq. 9)."""
        seed = 1000 * trainer.config.seed + task.index

        def dream(name: str, source: nn.Module, channels: range) -> Dreams:
            def compute() -> dict[str, Tensor]:
                layouts = self.layouts if self.options.layouts == "statistics" else None
                count, size = self.options.dream.count, trainer.config.train.crop
                queries = trainer.kind.queries(count, size, channels, seed, layouts).to(trainer.processes.device)
                with trainer.autocast():
                    dreamer = Dreamer(source, self.options.dream, seed)
                    return _tensors(dreamer.dream(queries, f"task {task.index} {name}", size))

            tensors = trainer.once(name, compute)
            return Dreams(tensors["images"], tensors["queries"], [])

        old, new = _dreamt(task, trainer.kind)
        return dream("dreams of old classes", teacher, old), dream("dreams of new classes", model.frozen(), new)

    def _fuse(
        self, task: Task, model: Segmenter, slow: State, fast: State, teacher: Segmenter, old: Dreams, new: Dreams,
        trainer: Trainer,
    ) -> dict[str, Tensor]:  # fmt: skip
        """Eq. 10: the state of the fused model, the gates, and the losses on the way."""
        device, options = trainer.processes.device, self.options
        fusion = make_fusion(task, trainer.config, options.fuse, model, slow, fast, teacher)
        old_images, new_images = old.images.to(device), new.images.to(device)
        if options.current_images:
            new_images = torch.cat([new_images, _first_images(task, model, trainer, options.current_images)])
        if options.fusion == "linear":
            alpha = fusion.best_linear(old_images, new_images)[0] if options.alpha is None else options.alpha
            state, found = linear(slow, fast, alpha, fusion.keep_fast), {"alpha": torch.tensor(alpha)}
        else:
            state, gates, history = fusion.fuse(old_images, new_images)
            losses = {name: torch.tensor([entry[name] for entry in history]) for name in ("old", "new")}
            found = prefixed(gate=gates, history=losses)
        if options.fuse.statistics != "interpolate":
            load_state(model, state)
            images = [old_images, new_images]
            if options.fuse.statistics == "dreams+images":
                images.append(_first_images(task, model, trainer, len(old_images)))
            reestimate_batch_norm(model, torch.cat(images).split(trainer.config.train.batch))
            state = snapshot(model)
        return prefixed(state=state) | found

    def finish(self, task: Task, model: Segmenter, trainer: Trainer) -> None:
        """The statistics of this task join those of the earlier ones; taken on the fused model."""
        super().finish(task, model, trainer)
        if self._aligns(trainer):
            self.alignment.finish(task, model, trainer)
        if self.options.layouts == "statistics" and self.options.fusion != "none" and trainer.kind.has_layouts:
            measured = trainer.once("layouts", lambda: self._count_layouts(task, model, trainer))
            self.layouts.add(LayoutStatistics.from_tensors(measured))

    def _count_layouts(self, task: Task, model: Segmenter, trainer: Trainer) -> dict[str, Tensor]:
        layouts = LayoutStatistics()
        for _, labels in self.looked_at(task, model, trainer):
            layouts.update(labels, len(task.seen_classes))
        layouts.reduce(trainer.processes)
        return layouts.tensors()

    def tensors(self) -> dict[str, Tensor]:
        """Those of the slow model, and the statistics of layouts and of features."""
        return super().tensors() | prefixed(layouts=self.layouts.tensors(), alignment=self.alignment.tensors())

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Takes back the statistics."""
        super().load_tensors(tensors)
        self.layouts = LayoutStatistics.from_tensors(part(tensors, "layouts"))
        self.alignment.load_tensors(part(tensors, "alignment"))

    def store(self, home: Path, task: Task, model: Segmenter) -> None:
        """Writes both models, the gates and the dreams (MODELS_FILE), and pictures of the dreams."""
        super().store(home, task, model)
        if self.kept:
            save_tensors(home / MODELS_FILE, self.kept)
            palette = class_palette(palette_of(task.source), task.seen_classes)
            for name in ("old", "new"):
                images, queries = self.kept[f"{name}.images"], self.kept[f"{name}.queries"]
                draw_dreams(home / f"dreams-{name}.png", images, queries, palette, model.pixel_mean, model.pixel_std)


def make_fusion(
    task: Task, config: RunConfig, options: FusionOptions, model: Segmenter, slow: State, fast: State,
    teacher: Segmenter,
) -> MetaFusion:  # fmt: skip
    """The fusion of a task: its new classifier from the fast model, the KL of the run's kind of labels."""
    return MetaFusion(
        model, slow, fast, teacher, len(task.old_classes), options, config.seed, [f"classifiers.{task.index}."],
        kind_of(config.dataset).old_kl,
    )  # fmt: skip


def _dreamt(task: Task, kind: Kind) -> tuple[range, range]:
    """Channels of the old and of the new classes, without the background."""
    return range(kind.first_object, len(task.old_classes)), range(len(task.old_classes), len(task.seen_classes))


def _first_images(task: Task, model: Segmenter, trainer: Trainer, count: int) -> Tensor:
    found: list[Tensor] = []
    for images, _ in trainer.passes(task, model, "current images"):
        found.append(images)
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count]


def _tensors(dreams: Dreams) -> dict[str, Tensor]:
    return {"images": dreams.images, "queries": dreams.queries}
