"""Two processes (gloo on the CPU) learn and test what one process does."""

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Ended, run_forks, together
from safetensors.torch import load_file
from small_voc import CROP, css, masks_of, plain_machine, read_results, run_arguments
from test_resume import numbers
from torch.distributed.run import main as torchrun

import css as css_package
from css.cli.main import main
from css.config.files import read_config
from css.run.flow import build_model
from css.run.folder import load_task, task_folder
from css.run.presets import from_dict
from css.run.stream import make_stream
from css.system.group import LOWEST_PORT
from css.system.launch import launch, wanted_processes
from css.system.processes import Processes
from css.training.evaluate import evaluate
from tasks import InputError

HALF = 4  # of a batch of 8: what one of two processes normalises over


pytestmark = pytest.mark.usefixtures("data")  # a plain machine for every test


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(data, runs):
    """A run by two processes that torchrun starts, as when a user calls css."""
    arguments = run_arguments(data, runs, "two", "--method", "plop", protocol="2-1")
    outcome = run_forks(runs / "torchrun", [(call_with_two_gpus, runs / "cache", arguments)])
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("avg ") == 2  # one table, by the first process alone
    return runs / "two"


def call_with_two_gpus(cache: Path, arguments: list[str]) -> None:
    with plain_machine(cache):
        os.environ["GPUS"] = "2"
        raise SystemExit(main(arguments))


def in_two_processes(folder: Path, *arguments: object) -> Ended:
    """The same with forks where torchrun would start processes, which takes seconds."""
    ended = []

    def fork(count: int, texts: list[str]) -> int:
        ended.append(together(folder, texts, count))
        return ended[0].returncode

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GPUS", "2")
        patch.setattr("css.system.launch.launch", fork)
        assert css(*arguments).code == ended[0].returncode
    assert len(ended) == 1
    return ended[0]


def two_nodes(data: Path, runs: Path, name: str, node: Callable) -> Path:
    """The run of `two`, on two machines of one process each, which find each other on loopback."""
    arguments = run_arguments(data, runs, name, "--method", "plop", protocol="2-1")
    port = free_port()
    calls = [(node, runs / "cache", rank, port, arguments) for rank in range(2)]
    outcome = run_forks(runs / f"{name}.streams", calls)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.count("avg ") == 2  # one table, by the first process alone
    return runs / name


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def torchrun_on_a_node(cache: Path, rank: int, port: int, arguments: list[str]) -> None:
    """As a user calls it on each machine."""
    with plain_machine(cache):
        os.environ["PYTHONPATH"] = str(Path(css_package.__file__).parents[1])
        torchrun([
            "--nnodes=2", "--nproc-per-node=1", f"--node-rank={rank}", "--rdzv-backend=c10d", "--rdzv-id=1",
            f"--rdzv-endpoint=127.0.0.1:{port}", "-m", "css", *arguments,
        ])  # fmt: skip


def srun_task(cache: Path, rank: int, port: int, arguments: list[str]) -> None:
    """What srun sets; nothing says where the processes meet but the list of nodes and the number of the job."""
    with plain_machine(cache):
        os.environ.update(
            SLURM_JOB_ID=str(port - LOWEST_PORT), SLURM_STEP_ID="0", SLURM_STEP_NODELIST="localhost",
            SLURM_PROCID=str(rank), SLURM_NTASKS="2", SLURM_LOCALID="0", GPUS="2",
        )  # fmt: skip
        raise SystemExit(main(arguments))


def hand_made(cache: Path, rank: int, port: int, arguments: list[str]) -> None:
    with plain_machine(cache):
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        raise SystemExit(main(arguments))


@pytest.mark.parametrize("node", [torchrun_on_a_node, srun_task, hand_made])
def test_two_nodes_end_like_two_processes_of_one(node, data, runs, two):
    run = two_nodes(data, runs, node.__name__, node)
    assert numbers(run) == numbers(two)
    assert (run / "log.jsonl").read_text() == (two / "log.jsonl").read_text()
    for weights in sorted(two.glob("task_*/model.safetensors")):
        expected, found = load_file(weights), load_file(run / weights.relative_to(two))
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


WORKER = """
import os, sys, time
word = sys.argv[1 + int(os.environ["RANK"])]
time.sleep(60 if word == "waits" else 0)
sys.exit(int(word))
"""


@pytest.mark.parametrize(("words", "code"), [(("0", "0"), 0), (("2", "waits"), 2), (("waits", "3"), 1)])
def test_torchrun_ends_all_when_one_fails_and_the_code_is_passed_on(words, code, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    outcome = run_forks(tmp_path / "launch", [(launch_worker, tmp_path / "worker.py", words)], timeout=50)
    assert outcome.returncode == code, outcome.stderr


def launch_worker(program: Path, words: tuple) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("css.system.launch.PROGRAM", str(program))
        raise SystemExit(launch(2, words))


def one(data: Path, runs: Path, name: str, *options: object) -> Path:
    assert css(*run_arguments(data, runs, name, "--method", "plop", *options, protocol="2-1")).code == 0
    return runs / name


def losses(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def totals(run: Path, task: int) -> np.ndarray:
    return np.array([line["ce"] + line.get("pod", 0) for line in losses(run) if line["task"] == task])


def test_same_losses_as_one_process_with_the_same_global_batch(data, runs, two):
    single = one(data, runs, "grouped", "--train.bn-group", HALF)
    places = [[(line["task"], line["epoch"], line["iteration"]) for line in losses(run)] for run in (two, single)]
    assert places[0] == places[1]  # every step once, written by one process
    np.testing.assert_allclose(totals(two, 0)[:2], totals(single, 0)[:2], rtol=1e-4)
    # Rounding differs (sums over halves), and every step amplifies it a little.
    np.testing.assert_allclose(totals(two, 0), totals(single, 0), rtol=2e-3)
    np.testing.assert_allclose(totals(two, 1), totals(single, 1), rtol=2e-2)


def test_batch_statistics_over_the_whole_batch_give_other_losses(data, runs, two):
    """The comparison above would notice that the halves were not normalised apart."""
    whole = one(data, runs, "whole")
    assert abs(totals(two, 0)[0] / totals(whole, 0)[0] - 1) > 1e-3


def test_one_results_json_that_counts_no_image_twice(data, two, tmp_path):
    results = read_results(two)
    assert results["complete"] and len(results["tasks"]) == 2
    assert len(list(two.rglob("results.json"))) == 1
    tested = sum(bool(np.isin(mask, [1, 2, 3]).any()) for mask in masks_of(data, "test"))
    assert results["tasks"][-1]["test_images"] == tested
    assert 0.5 * tested * CROP**2 < np.sum(results["tasks"][-1]["confusion"]) <= tested * CROP**2
    whole = in_two_processes(tmp_path / "forks", "evaluate", two, "--geometry", "whole")
    alone = css("evaluate", two, "--geometry", "whole")
    assert whole.returncode == 0 and whole.stdout.strip().endswith(alone.out.strip())


def test_same_confusion_matrix_as_one_process(data, two, tmp_path):
    """The network that two processes tested, tested by one, from the checkpoint."""
    for index, task in enumerate(read_results(two)["tasks"]):
        assert evaluated_alone(two, index) == task["confusion"]
    assert evaluated_alone(two, 0) != evaluated_alone(two, 1)


def evaluated_alone(run: Path, index: int) -> list[list[int]]:
    config = from_dict(read_config(run), str(run))
    stream = make_stream(config)
    model = build_model(config, stream, Processes())
    for task in range(index + 1):
        model.grow(stream.task(task).new_classes)
    load_task(task_folder(run, index), model)
    return evaluate(model, stream.task(index), config, Processes()).matrix.tolist()


def test_a_nan_loss_is_one_sentence_of_one_process(data, runs, tmp_path):
    options = ("--method", "finetune", "--train.lr", 1e20)
    outcome = in_two_processes(tmp_path / "forks", *run_arguments(data, runs, "nan", *options))
    assert outcome.returncode == 2
    ours = [line for line in outcome.stderr.splitlines() if line.startswith("css: ")]
    assert len(ours) == 1 and "task 0, epoch 0, iteration" in ours[0]
    assert not (runs / "nan" / "task_0").exists()


def test_an_error_that_the_first_process_alone_finds(data, two, tmp_path):
    """The others must not fail first, with a traceback of their broken connection."""
    options = ("--method", "plop", "--seed", 5)
    again = run_arguments(data, two.parent, "two", *options, protocol="2-1")
    outcome = in_two_processes(tmp_path / "forks", *again)
    assert outcome.returncode == 2 and "Traceback" not in outcome.stderr, outcome.stderr
    ours = [line for line in outcome.stderr.splitlines() if line.startswith("css: ")]
    assert len(ours) == 1 and "seed is 5 here and 0 there" in ours[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--train.batch", "7"], "--train.batch 7"),
        (["--train.batch", "2"], "one image at a time"),  # one image for each process
        (["--data-root", "nowhere"], "nowhere"),
        (["--task0", "nowhere"], "--task0 nowhere"),
    ],
)
def test_bad_input_is_refused_before_any_process_starts(options, reason, data, runs, monkeypatch):
    monkeypatch.setenv("GPUS", "2")
    monkeypatch.setattr("css.system.launch.launch", lambda *_: pytest.fail("processes were started"))
    outcome = css(*run_arguments(data, runs, "refused", *options))
    assert outcome.code == 2 and reason in outcome.complaint
    assert not (runs / "refused").exists()


def test_gpus_only_as_many_as_asked(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert wanted_processes() == 1
    for given, count in {"": 1, "3": 3, "all": 4}.items():
        monkeypatch.setenv("GPUS", given)
        assert wanted_processes() == count
    monkeypatch.setenv("GPUS", "5")
    with pytest.raises(InputError, match="GPUS=5, but only 4 GPUs are visible"):
        wanted_processes()
    monkeypatch.setenv("RANK", "0")  # torchrun has started as many as it was told
    assert wanted_processes() == 1


@pytest.mark.parametrize("count", ["0", "two", "-1"])
def test_a_number_of_processes_that_is_none(count, data, runs, monkeypatch):
    monkeypatch.setenv("GPUS", count)
    outcome = css(*run_arguments(data, runs, "refused"))
    assert outcome.code == 2 and f"GPUS={count}" in outcome.complaint
