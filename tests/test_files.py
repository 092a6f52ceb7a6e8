"""Run folders on disk: all or nothing, and tensors with their facts."""

import errno
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from css.system import files, tensors
from css.system.files import atomic, read_json, write_json
from css.system.log import Log
from css.system.tensors import load_tensors, save_tensors
from tasks import InputError

TENSORS = {
    "float": torch.randn(3, 4),
    "half": torch.randn(2).half(),
    "bfloat": torch.randn(2).bfloat16(),
    "integers": torch.arange(5),
    "bytes": torch.tensor([0, 255], dtype=torch.uint8),
    "scalar": torch.tensor(1.5),
    "empty": torch.zeros(0, 3),
}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "new" / "folder" / "a.txt"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "new" and names(path.parent) == ["a.txt"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), atomic(path) as temporary:
        temporary.write_text("half")
        raise failure
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def make_folder(path):
    path.mkdir()
    (path / "new").write_text("new")


def test_failure_leaves_the_old_folder(tmp_path):
    path = tmp_path / "task_0"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        make_folder(temporary)
        raise RuntimeError
    assert names(path) == ["old"] and names(tmp_path) == ["task_0"]
    with atomic(path) as temporary:
        make_folder(temporary)
    assert names(path) == ["new"] and names(tmp_path) == ["task_0"]


@pytest.mark.parametrize("folder", [True, False])
def test_what_a_killed_process_left_is_cleared(tmp_path, folder):
    path = tmp_path / "a"
    with atomic(path) as left:
        make_folder(left)
    make_folder(left) if folder else left.write_text("half")
    with atomic(path) as temporary:
        assert temporary == left and not temporary.exists()
        make_folder(temporary)
    assert names(tmp_path) == ["a"] and names(path) == ["new"]


def test_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(InputError, match=r"Cannot write .*runs/shapes/results.json: .*--runs"):
        write_json(tmp_path / "runs" / "shapes" / "results.json", {})
    with pytest.raises(InputError, match=r"Cannot write .*runs/log.jsonl.*--runs"):
        Log(tmp_path / "runs" / "log.jsonl")


def disk_full(*_, **__):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_text_is_written(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    write_json(path, {"old": 1})
    monkeypatch.setattr(Path, "write_text", disk_full)
    with pytest.raises(InputError, match=r"Cannot write .*results.json: No space left on device; free some space"):
        write_json(path, {"new": 2})
    assert read_json(path) == {"old": 1} and names(tmp_path) == ["results.json"]


@pytest.mark.parametrize("call", ["save_file", "os.replace"])
def test_full_disk_while_tensors_are_written(tmp_path, monkeypatch, call):
    path = tmp_path / "model.safetensors"
    save_tensors(path, {"a": torch.zeros(2)})
    monkeypatch.setattr(files.os if "." in call else tensors, call.split(".")[-1], disk_full)
    with pytest.raises(InputError, match=r"Cannot write .*model.safetensors: No space left on device; free some space"):
        save_tensors(path, {"a": torch.ones(2)})
    assert torch.equal(load_tensors(path)[0]["a"], torch.zeros(2)) and names(tmp_path) == ["model.safetensors"]


def test_full_disk_as_safetensors_reports_it(tmp_path, monkeypatch):
    def wrapped(*_, **__):
        raise tensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(tensors, "save_file", wrapped)
    with pytest.raises(InputError, match=r"Cannot write .*model.safetensors: .*No space left on device"):
        save_tensors(tmp_path / "model.safetensors", {})


def test_tensors_and_facts_come_back(tmp_path):
    facts = {"epochs": 3, "history": [{"loss": 0.1 + 0.2}], "name": "ä", "none": None, "scaler": {}}
    several = TENSORS | {"channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)}
    save_tensors(tmp_path / "a.safetensors", several, facts)
    loaded, facts_again = load_tensors(tmp_path / "a.safetensors")
    assert facts_again == facts and loaded.keys() == several.keys()
    for name, tensor in several.items():
        assert loaded[name].dtype == tensor.dtype and torch.equal(loaded[name], tensor), name


def test_facts_are_optional_and_parameters_are_saved_without_gradient(tmp_path):
    save_tensors(tmp_path / "a.safetensors", {"p": torch.nn.Parameter(torch.ones(2))})
    loaded, facts = load_tensors(tmp_path / "a.safetensors")
    assert facts == {} and not loaded["p"].requires_grad


def test_foreign_truncated_absent_and_empty_files(tmp_path):
    foreign = tmp_path / "foreign.safetensors"
    save_file(TENSORS, foreign)
    with pytest.raises(InputError, match=r"foreign.safetensors is not a checkpoint of this program"):
        load_tensors(foreign)
    save_file(TENSORS, foreign, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"foreign.safetensors is not a checkpoint of this program"):
        load_tensors(foreign)
    whole = tmp_path / "whole.safetensors"
    save_tensors(whole, TENSORS, {"epochs": 1})
    content = whole.read_bytes()
    for length in (0, 7, 100, len(content) - 1):
        whole.write_bytes(content[:length])
        with pytest.raises(InputError, match=r"whole.safetensors is missing or corrupt.*delete"):
            load_tensors(whole)
    with pytest.raises(InputError, match=r"absent.safetensors is missing or corrupt"):
        load_tensors(tmp_path / "absent.safetensors")


def test_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"iou": [0.1 + 0.2, None]})
    assert read_json(path) == {"iou": [0.1 + 0.2, None]}  # every digit of a float
    path.write_text(path.read_text()[:-5])
    with pytest.raises(InputError, match=r"a.json is not readable JSON"):
        read_json(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"a.json is not readable JSON"):
        read_json(path)
    with pytest.raises(InputError, match=r"b.json does not exist"):
        read_json(tmp_path / "b.json")


def test_log_is_cut_where_a_restarted_run_goes_on(tmp_path):
    path = tmp_path / "log.jsonl"
    log = Log(path)
    log.write({"iteration": 0})
    position = log.position()
    assert path.stat().st_size == position > 0
    log.write({"iteration": 1})
    log.position()
    again = Log(path)
    again.truncate(position)
    again.write({"iteration": 7})
    again.position()
    assert [json.loads(line)["iteration"] for line in path.read_text().splitlines()] == [0, 7]


def test_log_of_a_process_that_is_not_the_main_one():
    log = Log(None)
    log.write({"iteration": 0})
    log.truncate(0)
    assert log.position() == 0
