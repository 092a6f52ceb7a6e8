"""Testing: the confusion matrix of a model over the test images of a task."""

import torch
from tqdm import tqdm

from css.config.settings import RunConfig
from css.kinds.choice import kind_of
from css.losses import upsample
from css.metrics import ConfusionMatrix
from css.model.segmenter import Segmenter
from css.system.processes import Processes
from css.training.image_counts import ImageCounts
from css.training.loaders import autocast, make_loader
from tasks import Task
from tasks.batches import TestBatches


def predict(model: Segmenter, images: torch.Tensor, config: RunConfig, processes: Processes) -> torch.Tensor:
    """Channel of largest logit, uint8 (B, H, W), for uint8 images (B, 3, H, W) with sides that 16 divides."""
    return upsample(_logits(model, images, config, processes), images).argmax(1).to(torch.uint8)


def evaluate(model: Segmenter, task: Task, config: RunConfig, processes: Processes,
             single: ImageCounts | None = None) -> ConfusionMatrix:  # fmt: skip
    """Every test image of the task counted exactly once, whatever the number of processes; in `single`, too."""
    if list(model.classes) != list(task.seen_classes):  # two lists of one thing: channels would have other meanings
        raise ValueError(f"the network's channels are classes {model.classes}, the labels' {task.seen_classes}")
    kind = kind_of(config.dataset)
    images = task.test(kind.test_view(config))
    batch = config.train.batch if config.evaluation == "crop" else 1  # whole images differ in size
    batches = TestBatches(len(images), batch, processes.rank, processes.world)
    loader = make_loader(images, batches, config.train.workers, processes)
    confusion = ConfusionMatrix(len(task.seen_classes))
    bar = tqdm(loader, desc=f"task {task.index} test", unit="batch", disable=not processes.is_main or None)
    for positions, (pixels, labels) in zip(batches, bar, strict=True):
        logits = _logits(model, pixels, config, processes)
        answers = kind.answers(model, logits, labels.to(logits.device)).cpu()
        confusion.update(answers, labels)
        if single:
            single.update([position for position, _ in positions], answers, labels)
    confusion.matrix = processes.sum(confusion.matrix)
    if single:
        single.counts = processes.sum(single.counts)
    return confusion


def _logits(model: Segmenter, images: torch.Tensor, config: RunConfig, processes: Processes) -> torch.Tensor:
    with torch.no_grad(), autocast(config, processes, keep_casts=False):
        return model.eval()(model.normalise(images)).logits
