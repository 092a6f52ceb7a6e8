"""What the fusion of one task did, measured on real test images that no part of it has seen (`css analyse`)."""

from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from css.fusion.gates import linear
from css.fusion.meta import ALPHAS
from css.losses import upsample
from css.metrics import ConfusionMatrix
from css.model.segmenter import Segmenter
from css.model.state import State, evaluating, load_state
from tasks.source import VOID

_NEVER = -1e4  # a logit that no soft-max notices
Batches = list[tuple[Tensor, Tensor]]  # normalised images, labels as channels


class Models(NamedTuple):
    """The models of one task as states of one network.

    `old`: the model before the task, which never answers with a new class; `new_classifier`: prefix of what it has not;
    `num_old`: channels it has.
    """

    model: Segmenter
    old: State
    slow: State
    fast: State
    fused: State
    new_classifier: str
    num_old: int


def make_models(model: Segmenter, old: State, slow: State, fast: State, fused: State, index: int) -> Models:
    """From the states of the four models; `old` lacks the classifier of this task, the `index`-th."""
    new_classifier = f"classifiers.{index}."
    silent = {
        name: torch.full_like(value, _NEVER) if name.endswith("bias") else torch.zeros_like(value)
        for name, value in fast.items()
        if name.startswith(new_classifier)
    }
    num_old = sum(cast("nn.Conv2d", classifier).out_channels for classifier in model.classifiers[:index])
    return Models(model, {**old, **silent}, slow, fast, fused, new_classifier, num_old)


@torch.no_grad()
def measure(models: Models, state: State, batches: Batches) -> dict[str, float | None]:
    """Mean cross-entropy and mean IoU of a state of the network; None where there is no such pixel.

    Cross-entropy over pixels of `old` classes (background and all before this task) and of `new` ones; IoU of both and
    of all.
    """
    sums, counts = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    confusion = ConfusionMatrix(len(models.model.classes))
    load_state(models.model, state)
    with evaluating(models.model):
        for images, labels in batches:
            logits = upsample(models.model(images).logits, labels).float()
            losses = F.cross_entropy(logits, labels.long(), ignore_index=VOID, reduction="none")
            for place, chosen in enumerate(_old_and_new(labels, models.num_old)):
                sums[place] += losses[chosen].double().sum().cpu()
                counts[place] += chosen.sum().cpu()
            confusion.update(logits.argmax(1).cpu(), labels.cpu())
    of_old, of_new = (None if not count else (total / count).item() for total, count in zip(sums, counts, strict=True))
    means = confusion.groups(models.num_old)
    return {"old_loss": of_old, "new_loss": of_new, **{group: means[group] for group in ("old", "new", "all")}}


def _old_and_new(labels: Tensor, num_old: int) -> tuple[Tensor, Tensor]:
    return labels < num_old, (labels >= num_old) & (labels != VOID)


def compare(models: Models, batches: Batches) -> dict[str, Any]:
    """All models, the path from fast (0) to slow (1) in steps of a tenth, its point with the best mean IoU.

    `increase`: what the fusion, and the plain mean of both models, add to the loss of the old model on old classes and
    to that of the fast model on new ones (Fig. 4c and 6 of the paper).
    """
    states = {"old": models.old, "slow": models.slow, "fast": models.fast, "fused": models.fused}
    scores = {
        name: measure(models, state, batches)
        for name, state in tqdm(states.items(), desc="models", leave=False, disable=None)
    }
    scores["old"] |= {"new_loss": None, "new": None, "all": None}  # it has no answer
    path: list[dict[str, Any]] = [
        {"alpha": alpha, **measure(models, linear(models.slow, models.fast, alpha, (models.new_classifier,)), batches)}
        for alpha in tqdm(ALPHAS, desc="fast to slow", leave=False, disable=None)
    ]
    best = max(path, key=lambda point: point["all"])  # chosen on the test images: more than a method could do
    middle = path[len(path) // 2]
    increase = {
        name: {"old": _difference(found["old_loss"], scores["old"]["old_loss"]),
               "new": _difference(found["new_loss"], scores["fast"]["new_loss"])}
        for name, found in (("fused", scores["fused"]), ("mean", middle))
    }  # fmt: skip
    return {"models": scores, "path": path, "best_linear": best, "increase": increase}


def _difference(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def gate_shares(gates: State, model: nn.Module) -> list[dict[str, Any]]:
    """Mean and quartiles of the slow model's share in every layer, in the order of the network."""
    found = []
    for layer in (name for name, _ in model.named_modules() if name in gates):
        gate = gates[layer]
        low, median, high = torch.quantile(gate.float(), torch.tensor([0.25, 0.5, 0.75])).tolist()
        found.append({"layer": layer, "mean": gate.float().mean().item(), "quartiles": [low, median, high]})
    return found


def recognised(seen: Tensor, queries: Tensor, classes: Iterable[int]) -> dict:
    """How much of each dreamt class a network sees.

    Share of the query's pixels per channel, of all together, and by `chance` = always the most frequent one. `seen`:
    its answers, channels (N, H, W); 255 in a query is not counted.
    """
    counted = queries != VOID
    hits = seen == queries
    of_class = {}
    for channel in classes:
        pixels = queries == channel
        of_class[channel] = hits[pixels].float().mean().item() if pixels.any() else None
    share = queries[counted].long().bincount().max() / counted.sum()
    return {"classes": of_class, "all": hits[counted].float().mean().item(), "chance": share.item()}
