"""A run that is killed at any moment and started again ends exactly like one that was never killed."""

import json
import os
import pkgutil
import signal
from pathlib import Path

import pytest
import torch
from forked import fork
from safetensors.torch import load_file
from small_voc import after_first_task, css, picture_side, plain_machine, read_results, run_arguments, write_small_voc

from plop_baseline.finetune import Finetune

# Protocol 2-1 with 2 epochs: task 0 takes 4 + 4 steps, task 1 takes 2 + 2.
FINETUNE = ("--method", "finetune", "--train.epochs", 2)
PLOP = ("--method", "plop", "--train.epochs", 2)
MOMENTS = {
    "task 0, first checkpoint written but not in place": (FINETUNE, "css.system.files.os.replace", 2),
    "task 0, second epoch": (FINETUNE, "css.system.log.Log.write", 6),
    "task 0, before its test": (FINETUNE, "css.run.flow.evaluate", 1),
    "task 0, its folder half written": (FINETUNE, "css.report.pictures.save_predictions", 1),
    "task 0, its folder written, checkpoints not removed": (FINETUNE, "shutil.rmtree", 1),
    "between the tasks, before results.json": (FINETUNE, "css.run.flow.write_results", 1),
    "between the tasks, after results.json": (FINETUNE, "css.model.segmenter.Segmenter.frozen", 1),
}
# In the second task; the first is a copy of that of the run that was never killed.
LATER_MOMENTS = {
    "task 1, second epoch": (FINETUNE, "css.system.log.Log.write", 4),
    "plop, while thresholds are measured": (PLOP, "plop_baseline.plop.EntropyHistogram.update", 2),
    "plop, thresholds stored, no epoch done": (PLOP, "css.system.log.Log.write", 1),
}


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with plain_machine(folder):
        yield folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_small_voc(tmp_path_factory.mktemp("data") / "voc")


@pytest.fixture(scope="module")
def never_killed(data, tmp_path_factory):
    """The run folder of a run in one piece, made once for each set of options."""
    runs, made = tmp_path_factory.mktemp("reference"), {}

    def run(options: tuple) -> Path:
        if options not in made:
            made[options] = runs / str(len(made))
            assert css(*command(data, made[options], options)).code == 0
        return made[options]

    return run


def command(data: Path, run: Path, options: tuple) -> list[str]:
    return run_arguments(data, run.parent, run.name, *options, protocol="2-1")


def live(arguments: list[str], cache: Path, function: str, calls: int) -> None:
    """A process that runs the command and is killed instead of calling `function` for the nth time."""
    counted = iter(range(1, calls))

    def count_down(original):
        def counting(*args, **kwargs):
            if next(counted, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return counting

    with plain_machine(cache), picture_side(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(function, count_down(pkgutil.resolve_name(function)))
        raise SystemExit(css(*arguments).code)


def exit_code_of_life(arguments: list[str], cache: Path, function: str, calls: int) -> int:
    process = fork(live, arguments, cache, function, calls)
    process.join(timeout=600)
    return process.exitcode


def numbers(run: Path) -> dict:
    """What results.json says, without time, memory, the folder's own name, and the commit of the working tree."""
    results = read_results(run)
    for task in results["tasks"]:
        del task["seconds"], task["peak_memory_mb"]
        for epoch in task["history"]:
            del epoch["seconds"]
    del results["config"]["name"], results["config"]["runs"], results["versions"]["continual-segmentation"]
    return results


def assert_same(run: Path, reference: Path) -> None:
    assert numbers(run) == numbers(reference)
    assert (run / "log.jsonl").read_text() == (reference / "log.jsonl").read_text()
    assert files_in(run) == files_in(reference)  # nothing half-written is left behind
    for weights in sorted(reference.glob("task_*/model.safetensors")):
        expected, found = load_file(weights), load_file(run / weights.relative_to(reference))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def files_in(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*"))


@pytest.mark.parametrize("moment", [*MOMENTS, *LATER_MOMENTS])
def test_killed_once(moment, data, cache, never_killed, tmp_path):
    options, function, calls = {**MOMENTS, **LATER_MOMENTS}[moment]
    again = command(data, tmp_path / "run", options)
    if moment in LATER_MOMENTS:
        after_first_task(never_killed(options), tmp_path / "run")
    assert exit_code_of_life(again, cache, function, calls) == -signal.SIGKILL
    assert not (tmp_path / "run" / "results.json").exists() or not read_results(tmp_path / "run")["complete"]
    outcome = css(*again)
    assert outcome.code == 0, outcome.err
    assert_same(tmp_path / "run", never_killed(options))


def test_killed_again_and_again(data, cache, never_killed, tmp_path):
    """Every life ends three files later than the one before, at whatever the run is doing then."""
    again = command(data, tmp_path / "run", PLOP)
    codes = []
    while not codes or codes[-1] != 0:
        codes.append(exit_code_of_life(again, cache, "css.system.files.os.replace", 3 * len(codes) + 2))
        assert codes[-1] in (0, -signal.SIGKILL)
    assert len(codes) > 4
    assert_same(tmp_path / "run", never_killed(PLOP))


class Noisy(Finetune):
    """A method that draws random numbers in every batch, as some networks do."""

    def losses(self, task, forward, teacher, images, labels):
        return super().losses(task, forward, teacher, images + 0.1 * torch.randn_like(images), labels)


def test_random_numbers_are_drawn_again(data, cache, never_killed, tmp_path):
    noisy = ("--method", "test_resume:Noisy", "--train.epochs", 2)
    again = command(data, tmp_path / "run", noisy)
    assert exit_code_of_life(again, cache, "css.system.log.Log.write", 12) == -signal.SIGKILL
    assert css(*again).code == 0
    assert_same(tmp_path / "run", never_killed(noisy))


def test_log_holds_every_iteration_once(never_killed):
    lines = [json.loads(line) for line in (never_killed(FINETUNE) / "log.jsonl").read_text().splitlines()]
    expected = [(0, i // 4, i) for i in range(8)] + [(1, i // 2, i) for i in range(4)]
    assert [(line["task"], line["epoch"], line["iteration"]) for line in lines] == expected


def test_another_seed_gives_other_numbers(data, never_killed, tmp_path):
    """The comparison above would notice a run that went another way."""
    assert css(*command(data, tmp_path / "run", (*FINETUNE, "--seed", 1))).code == 0
    losses, others = (
        [epoch["ce"] for task in read_results(run)["tasks"] for epoch in task["history"]]
        for run in (tmp_path / "run", never_killed(FINETUNE))
    )
    assert all(loss != other for loss, other in zip(losses, others, strict=True))


def test_workers_do_not_change_the_numbers(data, never_killed, tmp_path):
    options = (*FINETUNE, "--train.workers", 2)
    assert css(*command(data, tmp_path / "run", options)).code == 0
    assert (tmp_path / "run" / "log.jsonl").read_text() == (never_killed(FINETUNE) / "log.jsonl").read_text()


def test_a_finished_run_is_left_as_it_is(data, never_killed):
    run = never_killed(FINETUNE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    outcome = css(*command(data, run, FINETUNE))
    assert outcome.code == 0 and "step" not in outcome.err  # no bar of training
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_another_configuration_is_refused(data, never_killed):
    run = never_killed(FINETUNE)
    before = numbers(run)
    outcome = css(*command(data, run, (*FINETUNE, "--train.lr", 0.02)))
    assert outcome.code == 2
    assert "train.lr is 0.02 here and 0.01 there" in outcome.complaint and "--name" in outcome.complaint
    assert numbers(run) == before
