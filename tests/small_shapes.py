"""The second task of a small stream with its models and a trainer, for tests of what a method does in one task."""

import torch

from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.model.segmenter import Segmenter
from css.system.log import Log
from css.system.processes import Processes
from css.training.trainer import Trainer
from tasks import Stream
from tasks.datasets.shapes import Shapes


def small_stream() -> Stream:
    return Stream.cut(Shapes(size=64, train_images=24, test_images=8), "10-5")


def make_trainer(folder, epochs=1, **train) -> Trainer:
    folder.mkdir(exist_ok=True)
    config = TrainConfig(epochs=epochs, batch=8, crop=64, later_lr=0.02, workers=0, precision="fp32", **train)
    run = RunConfig("shapes", "10-5", model=ModelConfig("tu-test_resnet", "none"), train=config)
    return Trainer(run, Processes(), folder / "work", Log(folder / "log.jsonl"))


def first_model(stream) -> Segmenter:
    torch.manual_seed(0)
    model = Segmenter("tu-test_resnet")
    model.grow(stream.task(0).new_classes)
    return model


def second_task(stream):
    """The second task, a model that has grown to it, and its teacher, whose running statistics are not the initial."""
    model = first_model(stream)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(4, 3, 64, 64) + 0.5)
    teacher = model.frozen()
    model.grow(stream.task(1).new_classes)
    return stream.task(1), model, teacher
