"""css extend."""

from pathlib import Path

import tyro

from css.extend.adopt import adopted, is_network
from css.extend.flow import extend as extend_model
from css.extend.request import Request
from css.system.processes import Processes


def extend(model: tyro.conf.Positional[Path], /, data: str, classes: tuple[str, ...], out: Path | None = None,
           method: str | None = None, epochs: int | None = None, seed: int = 0, first_data: str | None = None,
           old_test: str | None = None, architecture: str | None = None,
           names: tuple[str, ...] = (), crop: int | None = None) -> None:  # fmt: skip
    """Adds classes to a trained model, from images of these alone. The same command goes on with one that was killed.

    Everything but the new classes is background in their images, and training has the settings of the model's own.

    Args:
        model: Run folder, of css run or css extend; its last finished task is extended. Or a network of torchvision or
            segmentation-models-pytorch: a folder of save_pretrained, or a state dict with its --architecture.
        data: Folder with data.yaml (see css data), or the name of a data set.
        classes: Names of the new classes, as in data.yaml.
        out: Run folder to write; default: MODEL+CLASS beside the model's.
        method: Name of a method, see css list; default: hypercolumn, and frozen for a network of another library.
        epochs: Epochs of the new task; default: those of the later tasks of the model.
        seed: Seed of initialisation, order and augmentation.
        first_data: Folder with labels of the old classes, for statistics of their features where the run of the model
            has kept none; without it these are of the model's own answers in the new images.
        old_test: Folder on whose validation images the old classes are tested before and after.
        architecture: Of a state dict: a name of torchvision, as deeplabv3_resnet50, or the path of smp's config.json.
        names: Of the channels of such a network after the background; default: class 1, class 2, ...
        crop: Side of the training crops in pixels; default: that of the model, and 512 for such a network.
    """
    request = Request(model, data, classes, out, method, epochs, seed, first_data, old_test, crop)
    processes = Processes.join()
    if architecture or names or is_network(model):
        request = processes.first(lambda: adopted(request, architecture, names, processes.world))
    extend_model(request, processes)
