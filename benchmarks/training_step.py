"""Images/s of the trainer against a bare loop of the same networks, in one process.

    python benchmarks/training_step.py [--method plop] [--crop 128] [--encoder resnet18] [--data-root VOC]

The bare loop has one batch in memory and does nothing but forward, loss, backward and step (for plop also the
teacher's forward pass, pseudo labels and local POD, the same functions). The trainer adds what a user pays for:
decoding and augmentation in workers, transfer, schedule, log, progress bar. Both take turns; figures are medians over
steps, so the start of workers and of the first steps does not count.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.method.contract import plain_losses
from css.method.registry import make_method
from css.model.segmenter import Segmenter
from css.run.checks import resolve
from css.run.presets import preset
from css.system.log import Log
from css.system.processes import Processes
from css.training.loaders import autocast
from css.training.optimizer import make_optimizer
from css.training.trainer import Trainer
from tasks import Stream
from tasks.datasets.shapes import Shapes
from tasks.datasets.voc import Voc

SKIPPED = 3  # first steps of a round: allocation, start of workers


def main() -> None:
    arguments = parse()
    config = resolve(configure(arguments))
    processes = Processes.join()
    source = Voc(arguments.data_root) if arguments.data_root else Shapes(size=arguments.crop, train_images=400)
    stream = Stream.cut(source, "15-5")
    task = stream.task(1)  # every method does its full work here
    images = task.train_indices[: config.train.batch * (arguments.steps + SKIPPED + 1)]
    task = dataclasses.replace(task, train_indices=images)
    model = Segmenter(config.model.encoder).to(processes.device, memory_format=torch.channels_last)
    model.grow(stream.groups[0])
    teacher = model.frozen()
    model.grow(stream.groups[1])
    method = make_method(config.method, config.options)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(config, processes, Path(folder), Log(None))
        method.prepare(task, model, teacher, trainer)

        def losses(forward, images, labels):
            if config.method == "finetune":
                return plain_losses(forward, images, labels)
            return method.losses(task, forward, teacher, images, labels)

        batch = next(iter(trainer.passes(task, teacher, "benchmark")))
        rates: dict[str, list[float]] = {"bare loop": [], "trainer": []}
        for round_index in range(arguments.rounds):
            rates["bare loop"].append(bare_loop(config, processes, model, losses, batch, arguments.steps))
            rates["trainer"].append(trained(trainer, model, task, losses, f"round{round_index}", len(batch[1])))
    report(arguments, config, rates)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="plop", choices=["plop", "finetune"])
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--crop", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data-root", type=Path, help="a VOC tree to decode from; default: shapes in memory")
    return parser.parse_args()


def configure(arguments: argparse.Namespace) -> RunConfig:
    train = TrainConfig(epochs=1, batch=arguments.batch, crop=arguments.crop, workers=arguments.workers)
    model = ModelConfig(arguments.encoder, "none")
    return dataclasses.replace(preset("shapes", arguments.method), model=model, train=train)


def bare_loop(config, processes, model, losses, batch, steps: int) -> float:
    """Images/s of forward, loss, backward and step on one batch in memory."""
    optimizer = make_optimizer(config.train, model, 1e-4)
    model.train()
    durations = []
    for _ in range(steps + SKIPPED):
        began = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        with autocast(config, processes):
            terms = losses(model, *batch)
        sum(terms.values()).backward()
        optimizer.step()
        if processes.device.type == "cuda":
            torch.cuda.synchronize()
        durations.append(time.perf_counter() - began)
    return len(batch[1]) / statistics.median(durations[SKIPPED:])


def trained(trainer: Trainer, model, task, losses, stage: str, batch: int) -> float:
    """Images/s of one epoch of the trainer, from the times at which it asks for losses."""
    calls = []

    def timed(*arguments):
        calls.append(time.perf_counter())
        return losses(*arguments)

    trainer.fit(model, task, timed, stage)
    gaps = [after - before for before, after in zip(calls[SKIPPED:], calls[SKIPPED + 1 :], strict=False)]
    return batch / statistics.median(gaps)


def report(arguments: argparse.Namespace, config, rates: dict[str, list[float]]) -> None:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{torch.get_num_threads()} CPU threads"
    print(
        f"{config.method}, {config.model.encoder}, {config.train.crop} px, batch {config.train.batch}, "
        f"{config.train.precision}, {where}, images {'decoded' if arguments.data_root else 'in memory'}"
    )
    for name, values in rates.items():
        print(f"{name:10} {statistics.median(values):7.1f} images/s   ({', '.join(f'{v:.1f}' for v in values)})")
    ratios = [trainer / bare for bare, trainer in zip(rates["bare loop"], rates["trainer"], strict=True)]
    print(f"trainer / bare loop: {statistics.median(ratios):.3f}   ({', '.join(f'{r:.3f}' for r in ratios)})")


if __name__ == "__main__":
    main()
