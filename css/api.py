"""The toolkit from Python: open a model, predict, test, add classes, train a stream, look at a folder of data.

>>> import css
>>> model = css.load("runs/model")
>>> mask = model.predict("street.jpg")
>>> larger = model.extend("hats", ["hat"])
"""

import dataclasses
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from PIL import Image

from css.config.files import merge
from css.extend.flow import extend
from css.extend.plan import path_of
from css.extend.request import Request
from css.extend.scores import class_scores
from css.losses import upsample
from css.predict.exported import Precision
from css.predict.network import RunNetwork, open_run_network
from css.predict.view import View, segment
from css.run.flow import run
from css.run.presets import preset
from css.run.saved import finished_task
from css.run.stream import extended_stream
from css.system.files import atomic
from css.system.processes import Processes
from tasks.errors import InputError
from tasks.folder import Folder
from tasks.folder.source import SPLITS
from tasks.reading import open_image

PathLike = str | Path
Picture = np.ndarray | PathLike | Image.Image


class Model:
    """A trained model: that of a task of a run folder. Made by `css.load`, `css.train` and `extend`.

    Attributes:
        path: Its run folder.
        task: Number of its task, from 0.
        names: Names of the classes that it tells apart, by raw id, the background (0) first.
    """

    def __init__(self, path: Path, task: int, network: RunNetwork) -> None:
        self.path, self.task, self._network = path, task, network
        self.names: dict[int, str] = {class_id: network.names[class_id] for class_id in network.classes}

    @overload
    def predict(self, image: Picture, *, size: int | None = None) -> np.ndarray: ...
    @overload
    def predict(
        self, image: Picture, scores: Literal[True], size: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def predict(
        self, image: Picture, scores: bool = False, size: int | None = None
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """The label map of an image, uint8 (H, W) of raw class ids.

        With `scores` the probabilities as well, float32 (classes, H, W) in the order of `names`.

        Args:
            image: Path of a file, a PIL image, or RGB uint8 (H, W, 3).
            scores: Whether to return probabilities, too.
            size: Short side in pixels that the network sees; default: what it was trained with, as `css predict`.

        Raises:
            InputError: a file that cannot be read, or an array of another kind.
        """
        pixels = _pixels(image)
        labels, found = segment(self._network, pixels, View(self._network.size if size is None else size))
        return (labels, _as_large(found, pixels)) if scores else labels

    def evaluate(self, data: PathLike) -> dict[str, float | None]:
        """IoU by class name on the validation images of a folder with data.yaml that show a class of the model.

        Classes are matched by name; None stands for a class that the images do not show. Other classes of the folder
        count as background.

        Raises:
            InputError: the folder is missing or does not fit.
        """
        network = self._network
        config = dataclasses.replace(network.config, dataset=path_of(str(data)))
        stream = extended_stream(config, network.names, [network.classes], network.colours)
        return class_scores(network.model, stream.task(0, needs=["test"]), config, network.processes)

    def extend(self, data: PathLike, classes: Sequence[str], out: PathLike | None = None,
               method: str | None = None, epochs: int | None = None, seed: int = 0,
               first_data: PathLike | None = None, old_test: PathLike | None = None,
               crop: int | None = None) -> "Model":  # fmt: skip
        """A model that knows more classes, learnt from images of these alone; see `css extend --help`.

        Returns that of the new run folder, `out`; this one stays as it is. Goes on with an extension that was killed.

        Raises:
            InputError: what cannot be done, said before anything is written.
        """
        if self.task != finished_task(self.path, None):
            raise InputError(f"Only the last task of {self.path} can be extended, not task {self.task}; load that.")
        first, old = (None if given is None else str(given) for given in (first_data, old_test))
        folder = None if out is None else Path(out)
        request = Request(self.path, str(data), tuple(classes), folder, method, epochs, seed, first, old, crop)
        extend(request, self._network.processes)
        return load(request.folder)

    def export(self, path: PathLike, images: Sequence[Picture] = (), precision: Precision | None = None,
               calibrate: Sequence[Picture] = ()) -> dict[str, Any]:  # fmt: skip
        """Writes the model for another runtime and checks it there; see `css export --help`.

        Args:
            path: NAME.onnx, NAME.xml (OpenVINO) or NAME.pt2 (torch.export).
            images: Photographs to check with; drawn ones if there are none.
            precision: What OpenVINO shall compute in; None for its own choice.
            calibrate: Photographs for OpenVINO in int8; none for float.

        Returns the facts and the numbers of the check, as in FILE.json.

        Raises:
            InputError: the runtime is not installed, the check failed, or the file cannot be written.
        """
        from css.export.flow import export_network, format_of  # torch.export takes a second to import

        shown, ranges = ([_pixels(image) for image in some] for some in (images, calibrate))
        path = Path(path)
        return export_network(self._network, path, format_of(path), shown, None, precision, ranges)

    def save(self, folder: PathLike) -> None:
        """Copies the run folder of the model, which `css.load` and every command open.

        Raises:
            InputError: the folder exists already, or cannot be written.
        """
        folder = Path(folder)
        if folder.exists():
            raise InputError(f"{folder} is there already; name another folder.")
        with atomic(folder) as partial:
            shutil.copytree(self.path, partial)


class Dataset:
    """A folder of images and masks with data.yaml. Items are images, uint8 (H, W, 3), with masks of raw class ids."""

    def __init__(self, source: Folder, split: str) -> None:
        self._source, self._split = source, split

    @classmethod
    def open(cls, folder: PathLike, split: Literal["train", "val"] = "train") -> "Dataset":
        """The images of a split. Raises InputError if the folder is missing or its data.yaml does not fit it."""
        own = {name: key for key, name in SPLITS.items()}
        if split not in own:
            raise InputError(f"split {split!r} is unknown; choose train or val.")
        return cls(Folder(Path(folder)), own[split])

    @property
    def names(self) -> dict[int, str]:
        """Names by raw class id, the background (0) first; 255 in a mask is void."""
        return dict(enumerate(self._source.class_names))

    def __len__(self) -> int:
        return len(self._source.presence(self._split))

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._source.load(self._split, index)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self[index] for index in range(len(self)))


def load(path: PathLike, task: int | None = None) -> Model:
    """The model of a run folder after a task; None for the last one that is finished.

    Raises:
        InputError: this is no run folder of a model for label maps, or the task is not finished.
    """
    folder = Path(path)
    return Model(folder, finished_task(folder, task), open_run_network(folder, task))


def train(data: PathLike, protocol: str, method: str = "plop", **settings: Any) -> Model:
    """Learns a stream and returns its last model; goes on where a killed run was.

    Args:
        data: Name of a data set, or a folder with data.yaml.
        protocol: "A-B": A classes first, then B at a time.
        method: Name of a method, see `css list`.
        settings: As in config.yaml of a run folder, for example train={"epochs": 3}, seed=1, name="model".

    Raises:
        InputError: settings or data that do not fit, said before anything is written.
    """
    name = path_of(str(data))
    config = merge(preset(name, method), {"protocol": protocol, **settings}, "css.train")
    run(config, Processes.join())
    return load(config.folder)


def _as_large(scores: np.ndarray | None, image: np.ndarray) -> np.ndarray:
    """Probabilities (classes, h, w) at the size of an image (H, W, 3)."""
    assert scores is not None, "they are all there without tiles"
    labels = torch.empty(1, *image.shape[:2])
    return upsample(torch.from_numpy(scores)[None], labels)[0].numpy()


def _pixels(image: Picture) -> np.ndarray:
    """RGB uint8 (H, W, 3) of whatever holds an image."""
    if isinstance(image, str | Path):
        return np.array(open_image(Path(image)))
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"An image is uint8 (H, W, 3), not {image.dtype} {image.shape}; give RGB of 0 to 255.")
    return image
