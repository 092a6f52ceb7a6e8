"""Which test images a report shows: the best, the median and the worst one, and those of the classes that lost most."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LOST = 3  # classes


@dataclass(frozen=True)
class Example:
    """A test image and why it is shown: "best", "median", "worst", or "lost" with the channel of the class."""

    why: str
    position: int  # among the test images of the task
    iou: float  # of the image: mean over the objects in it; of one class: that class in it
    channel: int | None = None

    def facts(self, classes: Sequence[int]) -> dict[str, Any]:
        """For results.json; `classes` are the raw ids of the channels."""
        of_class = {} if self.channel is None else {"class_id": int(classes[self.channel])}
        return {"why": self.why, "iou": self.iou, **of_class}


def choose_examples(iou: np.ndarray, missed: np.ndarray, counted: np.ndarray, lost: Sequence[int]) -> list[Example]:
    """The best, the median and the worst image, and one for each of the classes that lost most.

    Images are ordered by the mean IoU over the objects in them (of the background where there is none); of a class that
    lost, the image in which most pixels of it are missed is shown, one that is not shown already if there is one. The
    others are not chosen from images that are mostly void, which do not stand for their score.

    Args:
        iou: Of every class within every test image, (images, classes); NaN where the class is not in the truth.
        missed: Pixels of the class that are called another one, (images, classes).
        counted: Pixels that have a ground truth, (images,).
        lost: Channels whose IoU has fallen, the worst first.
    """
    shown = np.flatnonzero(2 * counted > counted.max(initial=0))
    if not len(shown):
        return []
    objects = iou[shown].copy()
    objects[~np.isnan(objects[:, 1:]).all(1), 0] = np.nan
    means = np.nanmean(objects, axis=1)
    order = np.argsort(-means, kind="stable")
    places = {"best": order[0], "median": order[len(order) // 2], "worst": order[-1]}
    examples = [Example(why, int(shown[place]), float(means[place])) for why, place in places.items()]
    for channel in lost[:LOST]:
        fresh = missed[:, channel].copy()
        fresh[[example.position for example in examples]] = 0
        position = int((fresh if fresh.any() else missed[:, channel]).argmax())
        if missed[position, channel]:
            examples.append(Example("lost", position, float(iou[position, channel]), int(channel)))
    return examples


def channels_that_lost(history: Sequence[Sequence[float | None]]) -> list[int]:
    """Channels of objects whose IoU is lower than when they were learnt, the largest loss first.

    Args:
        history: After every task so far the IoU of every channel known then; None without ground truth.
    """
    last, losses = history[-1], {}
    for channel, now in enumerate(last[1:], 1):
        learnt = next(row[channel] for row in history if channel < len(row))
        if learnt is not None and now is not None and learnt > now:
            losses[channel] = learnt - now
    return sorted(losses, key=lambda channel: -losses[channel])
