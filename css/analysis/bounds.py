"""What the features of a network could give: classifiers trained on all images with all labels, which no method has."""

import copy
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from css.config.settings import RunConfig
from css.model.segmenter import FEATURES, Segmenter
from css.report.text import markdown, percent
from css.s2mf.alignment import BATCH, LR, STEPS, Seen, look
from css.s2mf.hypercolumns import fit_hypercolumn
from css.system.log import Log
from css.system.processes import Processes
from css.training.evaluate import evaluate
from css.training.trainer import Trainer
from tasks import Stream, Task

HIDDEN = 512  # of the MLP
DROPOUT = 0.5
MLP_LR = 0.002

Scores = dict[str, float | None]  # mean IoU of the groups of classes


def upper_bounds(stream: Stream, model: Segmenter, config: RunConfig, processes: Processes) -> dict[str, Scores]:
    """Mean IoU of old, new and all classes, by features and classifier: "decoder, linear" and so on.

    Args:
        stream: The run's, all of whose classes the network knows.
        model: The network at its end, which is not changed.
        config: Of the run: images are seen as in its training, and tested as it tests.
        processes: One process.
    """
    everything, last = stream.joint().task(0), stream.task(len(stream) - 1)
    trainer = Trainer(config, processes, Path(), Log(None))  # for its passes, which write nothing
    found = {}
    for name, seeing in _views(everything, model, trainer).items():
        seen = look(everything, seeing, None, trainer)
        for kind, head in _heads(seen.after.shape[1], len(everything.seen_classes)).items():
            seeing.classifiers = nn.ModuleList([_fitted(head, seen, LR if kind == "linear" else MLP_LR)])
            confusion = evaluate(seeing, last, config, processes)
            found[f"{name}, {kind}"] = confusion.groups(len(stream.groups[0]))
    return found


def bounds_table(found: dict[str, Scores]) -> str:
    """In %, one line per features and classifier."""
    rows = [[name, *(percent(scores[group]) for group in ("old", "new", "all"))] for name, scores in found.items()]
    return markdown(["classifier on all images, all labels", "old", "new", "all"], rows)


def _views(task: Task, model: Segmenter, trainer: Trainer) -> dict[str, Segmenter]:
    """Copies of the network whose classifiers see the decoder's features, and hypercolumns.

    Where the network has seen none, their directions are fitted on all images, too.
    """
    decoder, columns = copy.deepcopy(model), copy.deepcopy(model)
    decoder.hypercolumn = None
    decoder.classifiers = nn.ModuleList([nn.Conv2d(FEATURES, 1, 1)])  # any, until one is fitted
    columns.see(columns.hypercolumn or fit_hypercolumn(task, model, trainer))  # with classifiers that see it alone
    return {"decoder": decoder, "hypercolumn": columns}


def _heads(width: int, channels: int) -> dict[str, nn.Module]:
    hidden = nn.Conv2d(width, HIDDEN, 1)
    return {
        "linear": nn.Conv2d(width, channels, 1),
        "MLP": nn.Sequential(hidden, nn.ReLU(), nn.Dropout(DROPOUT), nn.Conv2d(HIDDEN, channels, 1)),
    }


def _fitted(head: nn.Module, seen: Seen, lr: float) -> nn.Module:
    """The classifier after Adam on features at places, whose maps are 1 x 1."""
    optimizer = torch.optim.Adam(head.train().parameters(), lr)
    for step in tqdm(range(STEPS), desc="bound", unit="step", leave=False, disable=None):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / STEPS)
        chosen = torch.randint(len(seen.labels), (BATCH,))
        loss = F.cross_entropy(head(seen.after[chosen, :, None, None])[:, :, 0, 0], seen.labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return head.eval()
