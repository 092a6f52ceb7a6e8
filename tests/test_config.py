"""Settings: what cannot work together, files of settings, and comparing them."""

import dataclasses
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from css import __version__ as css_version
from css.config.compare import differences
from css.config.files import CONFIG_FILE, as_dict, merge, read_config, read_yaml, save_config
from css.config.settings import EVERY, LATER, PLACE, ModelConfig, Rates, RunConfig, TrainConfig
from css.run.checks import require_config, resolve
from css.run.presets import from_dict, preset
from tasks import InputError
from tasks.datasets.registry import data_root


def small(method="finetune", train=None, **changes):
    config = dataclasses.replace(preset("shapes", method), protocol="15-1", **changes)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **(train or {})))


@pytest.mark.parametrize("dataset", ["voc", "shapes"])
@pytest.mark.parametrize("method", ["finetune", "joint", "plop"])
def test_presets_can_work(dataset, method):
    require_config(preset(dataset, method), world=1)
    require_config(preset(dataset, method), world=2)


@pytest.mark.parametrize(
    ("train", "world", "says"),
    [
        ({"epochs": 0}, 1, r"--train.epochs must be at least 1"),
        ({"batch": 0}, 1, r"--train.batch must be at least 1"),
        ({"accumulate": 0}, 1, r"--train.accumulate must be at least 1"),
        ({"workers": -1}, 1, r"--train.workers must be 0 or more"),
        ({"later_epochs": 0}, 1, r"--train.later-epochs must be at least 1"),
        ({"crop": 100}, 1, r"--train.crop 100 must be a multiple of 16"),
        ({"crop": 16}, 1, r"--train.crop 16 must be .* at least 32"),
        ({"batch": 9}, 2, r"--train.batch 9 cannot be divided among 2 processes .* choose a multiple of 2"),
        ({"batch": 10, "accumulate": 2}, 2, r"--train.accumulate 2; choose a multiple of 4"),
        ({"batch": 16, "bn_group": 6}, 1, r"--train.bn-group 6 does not divide the 16 images"),
        ({"batch": 16, "bn_group": 4, "accumulate": 8}, 1, None),
        ({"batch": 16, "bn_group": 1}, 1, r"one image at a time"),
        ({"batch": 2}, 2, r"one image at a time"),
        ({"batch": 2, "accumulate": 2}, 1, r"one image at a time"),
        ({"batch": 2}, 1, None),
        ({"sync_bn": True, "bn_group": 4}, 2, r"--train.sync-bn and --train.bn-group exclude each other"),
        ({"sync_bn": True}, 2, r"--train.sync-bn needs GPUs"),
    ],
)
def test_training_settings_that_cannot_work(monkeypatch, train, world, says):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if says is None:
        require_config(small(train=train), world)
    else:
        with pytest.raises(InputError, match=says):
            require_config(small(train=train), world)


def test_synchronised_batch_norm_on_gpus_takes_one_image_per_process(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    require_config(small(train={"sync_bn": True, "batch": 2}), world=2)
    with pytest.raises(InputError, match="one image at a time"):
        require_config(small(train={"sync_bn": True, "batch": 1}), world=1)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (small(seed=-1), "--seed -1 must be from 0 to 4294967295"),
        (small("joint", task0=Path("runs/other")), "--task0 cannot be used with joint training"),
        (small("plop", train={"crop": 48}), "--train.crop 48 is too small for plop.* at least 64 pixels"),
        (dataclasses.replace(small(), method="plopp"), "--method plopp is unknown"),
    ],
)
def test_run_settings_that_cannot_work(config, says):
    with pytest.raises(InputError, match=says):
        require_config(config, 1)


@pytest.mark.parametrize(
    ("method", "says"),
    [
        ("nothing", "choose from finetune, joint, plop"),
        ("no.such.module:Method", "cannot be imported"),
        ("css.method:Nothing", "cannot be imported"),
        (".method:Method", "cannot be imported"),
        ("css.method.contract:NoOptions", "is not a subclass"),
    ],
)
def test_unknown_method(method, says):
    with pytest.raises(InputError, match=f"--method {method} .*{says}"):
        preset("shapes", method)


def test_unknown_data_set():
    with pytest.raises(InputError, match="Data set 'coco' is unknown; choose from voc, shapes"):
        preset("coco")


@pytest.mark.parametrize(
    ("amx", "avx512", "expected"), [(True, False, "bf16"), (False, True, "bf16"), (False, False, "fp32")]
)
def test_automatic_precision_is_what_the_hardware_does(monkeypatch, amx, avx512, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512)
    assert resolve(small()).train.precision == expected
    chosen = small(train={"precision": "fp16"}, model=ModelConfig(classifier_features="decoder", classifier_hidden=0))
    assert resolve(chosen) == chosen


def test_merge_changes_what_is_named():
    config = merge(
        small("plop"),
        {
            "protocol": "10-5", "classes": [3, "cat"], "runs": "elsewhere", "name": "mine",
            "train": {"lr": 1, "bn_group": 4}, "options": {"thresholds": "median"},
        },
        "table.yaml",
    )  # fmt: skip
    assert (config.protocol, config.classes, config.name) == ("10-5", ("3", "cat"), "mine")
    assert config.folder == Path("elsewhere/mine")
    assert isinstance(config.train.lr, float) and (config.train.lr, config.train.bn_group) == (1.0, 4)
    assert config.train.crop == small().train.crop and config.options.thresholds == "median"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methd": "plop"}, "table.yaml: unknown setting 'methd'; known are dataset, protocol, method"),
        ({"train": {"rate": 1}}, "table.yaml, train: unknown setting 'rate'; known are epochs"),
        ({"options": {"pod_factor": 1}}, "table.yaml, options: unknown setting 'pod_factor'"),
        ({"train": 3}, "table.yaml: train must hold settings"),
        ({"folder": "here"}, "table.yaml: unknown setting 'folder'"),
        ({"epochs": 3}, "table.yaml: unknown setting 'epochs'"),  # also the name of a method of the class
    ],
)
def test_merge_of_settings_that_do_not_exist(changes, says):
    with pytest.raises(InputError, match=says):
        merge(small(), changes, "table.yaml")


names = st.text("abc-_1 :#", min_size=1, max_size=8)
rates = st.floats(0, 1, allow_subnormal=False)
paths = st.none() | names.map(Path)
trains = st.builds(
    TrainConfig, epochs=st.integers(1, 99), later_epochs=st.none() | st.integers(1, 99), lr=rates, weight_decay=rates,
    precision=st.sampled_from(["auto", "fp32", "bf16", "fp16"]), bn_group=st.none() | st.integers(2, 9),
    sync_bn=st.booleans(),
)  # fmt: skip
configs = st.builds(
    RunConfig, st.sampled_from(["voc", "shapes"]), st.just("15-1"), st.sampled_from(["finetune", "joint"]),
    seed=st.integers(0, 9), classes=st.lists(names).map(tuple), order=st.lists(names).map(tuple), data_root=paths,
    runs=names.map(Path), name=st.none() | names, task0=paths, model=st.builds(ModelConfig, names, names), train=trains,
)  # fmt: skip


@given(configs)
@settings(max_examples=100, deadline=None)
def test_plain_values_give_the_configuration_again(config):
    assert from_dict(as_dict(config), "config.yaml") == config
    assert differences(as_dict(config), as_dict(config)) == []


@given(config=configs)
@settings(max_examples=30, deadline=None)
def test_file_gives_the_configuration_again(tmp_path_factory, config):
    config = dataclasses.replace(config, runs=tmp_path_factory.mktemp("runs"), name="run")
    save_config(config, "digest of the data")
    assert from_dict(read_config(config.folder), "config.yaml") == config


def test_options_of_the_method_come_back():
    config = merge(small("plop"), {"options": {"pod_factor": 0.5}}, "")
    again = from_dict(as_dict(config), "config.yaml", name="moved")
    assert again.options == config.options and again.options.pod_factor == 0.5 and again.name == "moved"


def test_run_folder_is_named_after_what_is_run():
    assert small(seed=3).folder == Path("runs/shapes-15-1-overlap-finetune-s3")
    assert dataclasses.replace(small(), method="mine.module:Best").folder.name == (
        "shapes-15-1-overlap-mine.module.Best-s0"
    )


def test_rates_and_epochs_of_tasks():
    config = small(train={"epochs": 8, "later_epochs": None, "lr": 0.5, "later_lr": 0.25})
    assert [config.epochs(task) for task in (0, 1)] == [8, 8] and [config.lr(task) for task in (0, 1, 2)] == [
        0.5, 0.25, 0.25,
    ]  # fmt: skip
    assert [small(train={"epochs": 8, "later_epochs": 3}).epochs(task) for task in (0, 1, 2)] == [8, 3, 3]


def compared(first, second, **how):
    return differences(as_dict(first), as_dict(second), **how)


def test_differences_leave_out_where_things_lie_and_how_fast_they_go():
    moved = {"data_root": Path("d"), "runs": Path("r"), "name": "n", "task0": Path("t"), "train": {"workers": 7}}
    assert compared(small(), small(**moved)) == []
    assert compared(small(), small(train={"lr": 0.5, "crop": 128}, seed=4)) == [
        "seed is 0 here and 4 there",
        "train.crop is 96 here and 128 there",
        "train.lr is 0.05 here and 0.5 there",
    ]


def test_differences_see_settings_that_only_one_has():
    older = as_dict(small("plop"))
    del older["options"]["floor"]
    assert differences(as_dict(small("plop")), older) == ["options.floor is 0.001 here and None there"]
    assert differences(older, as_dict(small("plop"))) == ["options.floor is None here and 0.001 there"]


def test_differences_that_matter_to_the_first_task():
    other = small("plop", setting="disjoint", order=("1",), train={"later_lr": 9.0, "later_epochs": 2})
    assert compared(small(), other) != []
    assert compared(small(), dataclasses.replace(other, protocol="15-5"), first_task_only=True) == []
    assert compared(small(), small(train={"epochs": 9}), first_task_only=True) == [
        "train.epochs is 10 here and 9 there"
    ]
    assert compared(small(), small(model=ModelConfig("resnet50", "none")), first_task_only=True) == [
        "model.encoder is 'resnet18' here and 'resnet50' there"
    ]


def test_data_root(monkeypatch):
    monkeypatch.setenv("DATA_ROOT", "from/environment")
    assert data_root(Path("given")) == Path("given")
    assert data_root(None) == Path("from/environment")
    monkeypatch.delenv("DATA_ROOT")
    assert data_root(None) == Path("data")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "does not exist"),
        (b"a: [1", "is not readable YAML"),
        (b"\xff\xfe\x00", "is not readable YAML"),
        (b"!!python/object/apply:os.getcwd []", "is not readable YAML"),
        (b"- a list", "holds no settings"),
        (b"", "holds no settings"),
    ],
)
def test_files_that_hold_no_settings(tmp_path, content, says):
    path = tmp_path / CONFIG_FILE
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"config.yaml {says}"):
        read_yaml(path)


def test_every_setting_says_what_it_decides():
    for section in (RunConfig, ModelConfig, TrainConfig, Rates):
        for field in dataclasses.fields(section):
            inner = field.name in ("model", "train")
            known = [what["decides"] for what in (EVERY, LATER, PLACE)]
            assert inner or field.metadata["decides"] in known, f"{section.__name__}.{field.name}"


def test_a_setting_that_an_older_version_had_not_is_the_default():
    config = small("plop")
    older = as_dict(config)
    del older["train"]["bn_group"], older["void"]
    assert differences(as_dict(config), older) == []
    changed = dataclasses.replace(config, void="background")
    assert differences(as_dict(changed), older) == ["void is 'background' here and 'ignore' there"]


@pytest.mark.parametrize(("made_by", "refused"), [("99.0.0", True), ("0.1.0", False), ("", False), (None, False)])
def test_a_folder_of_a_newer_version(made_by, refused, tmp_path):
    save_config(dataclasses.replace(small("plop"), runs=tmp_path, name="run"), "data")
    file = tmp_path / "run" / CONFIG_FILE
    values = yaml.safe_load(file.read_text())
    assert values.pop("version") == css_version
    file.write_text(yaml.safe_dump(values | ({} if made_by is None else {"version": made_by})))
    if refused:
        with pytest.raises(InputError, match=r"made by version 99.0.0 of this toolkit, and this is"):
            read_config(tmp_path / "run")
    else:
        assert read_config(tmp_path / "run") == values
