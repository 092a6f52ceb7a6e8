"""`css analyse` of one task: reads what Split2MetaFusion left of it, measures, draws and writes it down."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from css.analysis.draw import ALIGNED, draw_gates, draw_landscape, draw_path, draw_story
from css.analysis.landscape import landscape
from css.analysis.measure import Batches, Models, compare, gate_shares, make_models, measure, recognised
from css.config.settings import RunConfig
from css.dream.draw import class_palette, draw_dreams
from css.kinds.choice import kind_of
from css.losses import upsample
from css.model.segmenter import Segmenter
from css.model.state import Classifiers, State, load_state, set_classifiers, snapshot
from css.report.results import read_results
from css.report.text import markdown, percent
from css.run.folder import task_folder
from css.s2mf.algorithm import MODELS_FILE, make_fusion
from css.system.files import write_json
from css.system.processes import Processes
from css.system.tensors import load_tensors, part
from css.training.loaders import autocast, make_loader
from tasks import InputError, Task
from tasks.batches import TaskImages, TestBatches
from tasks.palette import palette_of
from tasks.source import BACKGROUND, VOID
from tasks.views import CentreCrop

FEW = 32  # images of the landscape, which is measured at many points
REAL = 64  # training images of old, and of new classes, on which gates are learnt that no method may learn


class Analysis:
    """Of one finished task after the first. `old` and `fused`: the models before and after it.

    From here on the fused model is the one before its classifiers were aligned, as all others; `aligned` is its state
    at the end of the task.
    """

    def __init__(
        self, run: Path, task: Task, old: Segmenter, fused: Segmenter, config: RunConfig, processes: Processes
    ) -> None:
        self.task, self.old, self.fused, self.config, self.processes = task, old, fused, config, processes
        self.home, self.name = run / "analysis", f"task_{task.index}"
        self.kept, _ = load_tensors(task_folder(run, task.index) / MODELS_FILE)
        self.aligned = snapshot(fused)
        set_classifiers(fused, Classifiers(**part(self.kept, "unaligned")))
        self.models = self._models()

    def measure(self, images: int, judge: Segmenter | None) -> dict[str, Any]:
        """Everything, written to RUN/analysis/task_K*.

        `images`: at most so many test images; `judge`: an independent network, which looks at the dreams.
        """
        with autocast(self.config, self.processes):
            test = self._batches(self._spread(images))
            found = compare(self.models, test)
            if self.config.options.align:
                found["models"]["aligned"] = measure(self.models, self.aligned, test)
            if (real := self._fused_on_real_images()) is not None:
                found["models"]["fused_real"] = measure(self.models, real, test)
            found["landscape"] = landscape(self.models, self._batches(self._half_new(FEW)))
            found["dreams"] = {name: self._dreams(name, judge) for name in ("old", "new")}
        found["gates"] = gate_shares(part(self.kept, "gate"), self.fused)
        self._draw(found)
        write_json(self.home / f"{self.name}.json", found)
        return found

    def _models(self) -> Models:
        states = [self.old.state_dict(), part(self.kept, "slow"), part(self.kept, "fast"), self.fused.state_dict()]
        device = self.processes.device
        old, slow, fast, fused = (
            {name: value.detach().clone().to(device) for name, value in state.items()} for state in states
        )
        return make_models(self.fused, old, slow, fast, fused, self.task.index)

    def _fused_on_real_images(self) -> State | None:
        """Gates between the same two models, learnt on training images of old and of new classes in place of dreams.

        That is what the best of dreams could reach. None where every image of an old class shows a new one, too.

        As on the path between the models, the new classifier is the fast model's, and BatchNorm's statistics are
        interpolated.
        """
        presence = self.task.source.presence("train")
        shows_old = presence[:, [c for c in self.task.old_classes if c != BACKGROUND]].any(1)
        shows_new = presence[:, self.task.new_classes].any(1)  # which the teacher calls background
        only_old = np.flatnonzero(shows_old & ~shows_new)
        if not len(only_old):
            return None
        options, models = self.config.options.fuse, self.models
        fusion = make_fusion(self.task, self.config, options, self.fused, models.slow, models.fast, self.old)
        return fusion.fuse(self._crops(only_old), self._crops(self.task.train_indices)).state

    def _crops(self, indices: np.ndarray) -> Tensor:
        """Up to REAL training images, normalised."""
        view = CentreCrop(self.config.train.crop)
        images = TaskImages(self.task.source, "train", _evenly(indices, REAL), self.task.test_lut, view)
        return self.fused.normalise(torch.stack([images[place, 0][0] for place in range(len(images))]))

    def _batches(self, chosen: np.ndarray) -> Batches:
        view = kind_of(self.config.dataset).test_view(self.config)
        images = dataclasses.replace(self.task, test_indices=chosen).test(view)
        batch = self.config.train.batch if self.config.evaluation == "crop" else 1
        loader = make_loader(images, TestBatches(len(images), batch, 0, 1), self.config.train.workers, self.processes)
        return [(self.fused.normalise(pixels), labels.to(self.processes.device)) for pixels, labels in loader]

    def _spread(self, most: int) -> np.ndarray:
        return _evenly(self.task.test_indices, most)

    def _half_new(self, most: int) -> np.ndarray:
        """Test images, half of them with a class of this task if there are so many."""
        indices = self.task.test_indices
        new = self.task.source.presence("test")[indices][:, self.task.new_classes].any(1)
        with_new = _evenly(indices[new], most // 2)
        return np.concatenate([with_new, _evenly(indices[~new], most - len(with_new))])

    def _dreams(self, name: str, judge: Segmenter | None) -> dict[str, Any]:
        images, queries = (self.kept[f"{name}.{what}"] for what in ("images", "queries"))
        num_old, num_all = self.models.num_old, len(self.fused.classes)
        dreamt = range(1, num_old) if name == "old" else range(num_old, num_all)
        teacher = self.models.old if name == "old" else self.models.fast
        answers = {"teacher": self._answers(teacher, images), "fused": self._answers(self.models.fused, images)}
        if judge is not None:
            answers["judge"] = self._judged(judge, images)
        palette = class_palette(palette_of(self.task.source), self.fused.classes)
        mean, std, path = self.fused.pixel_mean, self.fused.pixel_std, self.home / f"{self.name}-dreams-{name}.png"
        draw_dreams(path, images, queries, palette, mean, std, answers["fused"])
        return {who: recognised(seen, queries, dreamt) for who, seen in answers.items()}

    def _answers(self, state: State, images: Tensor) -> Tensor:
        load_state(self.fused, state)
        return _channels(self.fused, images.to(self.processes.device))

    def _judged(self, judge: Segmenter, images: Tensor) -> Tensor:
        """Its answers as channels of this run's network; a class that this one lacks is no hit."""
        channel = {class_id: place for place, class_id in enumerate(self.fused.classes)}
        translated = torch.tensor([channel.get(class_id, VOID) for class_id in judge.classes])
        return translated[_channels(judge, images.to(self.processes.device))]

    def _draw(self, found: dict[str, Any]) -> None:
        draw_path(self.home / f"{self.name}-path.png", f"{self.name}: from the fast to the slow model", found)
        if found["landscape"]["points"]:
            title = f"{self.name}: the plane through three models"
            draw_landscape(self.home / f"{self.name}-landscape.png", title, found["landscape"])
        if found["gates"]:
            draw_gates(self.home / f"{self.name}-gates.png", f"{self.name}: gates", found["gates"])
        tasks = read_results(self.home.parent)["tasks"][: self.task.index + 1]
        dreams = self.home / f"{self.name}-dreams-old.png"
        draw_story(self.home / f"{self.name}-story.png", f"{self.home.parent.name}, {self.name}", found, dreams, tasks)


def require_fused(run: Path, index: int) -> None:
    """Raises InputError if Split2MetaFusion left no models of this task."""
    if not (task_folder(run, index) / MODELS_FILE).exists():
        raise InputError(
            f"{task_folder(run, index)} has no {MODELS_FILE}: css analyse needs a task after the first of a run of "
            "BASE+s2mf with --options.fusion linear or meta, and --keep all."
        )


def require_classes(judge: Segmenter, fused: Segmenter, names: list[str], run: Path) -> None:
    """Raises InputError if the network that shall recognise dreams has not learnt all their classes."""
    if missing := [names[class_id] for class_id in fused.classes if class_id not in judge.classes]:
        raise InputError(f"--recogniser {run} has not learnt {', '.join(missing)}; name a finished run that has.")


def analysis_table(found: dict[str, Any]) -> str:
    """Losses on test images, and mIoU of the classes before the task, of its own, and of all."""
    best = found["best_linear"]
    models = {_ROW_NAMES.get(name, name): row for name, row in found["models"].items()}
    rows = {**models, f"best mean (slow {best['alpha']:.1f})": best}
    return markdown(
        ["model", "loss old", "loss new", "mIoU old", "mIoU new", "mIoU all"],
        [[name, *(_digits(row[f"{group}_loss"]) for group in ("old", "new")),
          *(percent(row[group]) for group in ("old", "new", "all"))] for name, row in rows.items()],
    )  # fmt: skip


_ROW_NAMES = {"aligned": ALIGNED, "fused_real": "gates on real images"}


def _digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _evenly(indices: np.ndarray, most: int) -> np.ndarray:
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)]


@torch.no_grad()
def _channels(model: Segmenter, images: Tensor) -> Tensor:
    parts = [upsample(model.eval()(some).logits, some).argmax(1).cpu() for some in images.split(16)]
    return torch.cat(parts)
