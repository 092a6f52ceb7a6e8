"""The training loop on a tiny network and a handful of pictures: schedule, accumulation, failures, resume."""

import dataclasses
import json

import pytest
import torch
from small_voc import Killed

from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.method.contract import plain_losses
from css.model.segmenter import Segmenter
from css.system.log import Log
from css.system.processes import Processes
from css.system.tensors import load_tensors, save_tensors
from css.training.trainer import Trainer
from tasks import InputError, Stream
from tasks.datasets.shapes import Shapes


@pytest.fixture(scope="module")
def task():
    task = Stream.cut(Shapes(size=64, train_images=24, test_images=8), "19-1").task(0)
    assert 16 <= len(task.train_indices) <= 24  # 2 or 3 batches of 8, one of 16
    return task


def config_for(**train):
    settings = {"epochs": 2, "batch": 8, "crop": 32, "lr": 0.02, "workers": 0, "precision": "fp32", **train}
    return RunConfig("shapes", "19-1", "finetune", model=ModelConfig("tu-test_resnet", "none"),
                     train=TrainConfig(**settings))  # fmt: skip


def make_trainer(folder, **train):
    folder.mkdir(exist_ok=True)
    return Trainer(config_for(**train), Processes(), folder / "work", Log(folder / "log.jsonl"))


def make_model(task, seed=0):
    torch.manual_seed(seed)
    model = Segmenter("tu-test_resnet").to(memory_format=torch.channels_last)
    model.grow(task.new_classes)
    return model


def fit(folder, task, losses=plain_losses, model=None, **train):
    """The model and the trainer after training; the log is complete on disk."""
    model, trainer = model or make_model(task), make_trainer(folder, **train)
    try:
        trainer.fit(model, task, losses)
    finally:
        trainer.log.position()
    return model, trainer


def log_of(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def checkpoint(folder):
    return load_tensors(folder / "work" / "fit.safetensors")


def at_call(number, action):
    """The plain losses, and `action` on them from the call of this number on."""
    calls = iter(range(10_000))

    def losses(forward, images, labels):
        terms = plain_losses(forward, images, labels)
        return action(terms) if next(calls) >= number else terms

    return losses


def identical(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_poly_schedule_per_iteration_in_the_log(tmp_path, task):
    fit(tmp_path, task, epochs=3)
    log, steps = log_of(tmp_path), len(task.train_indices) // 8
    total = 3 * steps
    assert [entry["iteration"] for entry in log] == list(range(total))
    assert [entry["epoch"] for entry in log] == [i // steps for i in range(total)]
    assert [entry["lr"] for entry in log] == pytest.approx([0.02 * (1 - i / total) ** 0.9 for i in range(total)])
    assert {(entry["task"], entry["stage"]) for entry in log} == {(0, "fit")}
    assert all(entry["ce"] > 0 for entry in log)


def test_later_tasks_have_their_own_rate_and_epochs(tmp_path, task):
    later = dataclasses.replace(task, index=1)
    fit(tmp_path, later, model=make_model(task), epochs=3, later_epochs=1, later_lr=0.004)
    log = log_of(tmp_path)
    assert log[0]["lr"] == 0.004 and log[0]["task"] == 1
    assert len(log) == len(task.train_indices) // 8


def test_a_stage_may_have_its_own_rate_epochs_and_batch_norm(tmp_path, task):
    model, trainer = make_model(task), make_trainer(tmp_path, epochs=3)
    statistics = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    shown = []
    trainer.fit(model, task, plain_losses, "fast", epochs=1, lr=0.5, batch_norm="freeze", on_optimizer=shown.append)
    trainer.log.position()
    log = log_of(tmp_path)
    assert {(entry["stage"], entry["epoch"]) for entry in log} == {("fast", 0)} and log[0]["lr"] == 0.5
    assert all(torch.equal(model.state_dict()[name], value) for name, value in statistics.items())
    assert isinstance(shown[0], torch.optim.SGD) and len(shown) == 1


@pytest.mark.parametrize("mode", ["train", "freeze-stats", "freeze"])
def test_batch_norm_of_later_tasks(tmp_path, task, mode):
    for index in (0, 1):
        model = make_model(task)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fit(tmp_path / f"{mode}-{index}", dataclasses.replace(task, index=index), model=model, later_lr=0.02,
            later_batch_norm=mode)  # fmt: skip
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        free = index == 0 or mode == "train"  # the first task knows nothing of it
        assert any("running_mean" in name for name in moved) == free
        affine = {name.replace("running_mean", "weight") for name in before if "running_mean" in name}
        assert bool(affine & moved) == (free or mode == "freeze-stats")
        assert "classifiers.0.weight" in moved


def test_stages_of_a_killed_task_are_gone_through_again(tmp_path, task):
    """Killed in the second stage: the first one returns, the log keeps its lines, the second goes on."""

    def both(folder, losses):
        model, trainer = make_model(task), make_trainer(folder)
        trainer.fit(model, task, plain_losses, "slow")
        trainer.fit(model, task, losses, "fast")
        trainer.log.position()
        return model, trainer

    whole, whole_trainer = both(tmp_path / "whole", plain_losses)
    steps = len(task.train_indices) // 8
    for call in (1, steps + 1):  # before and after the first checkpoint of the second stage
        with pytest.raises(Killed):
            both(tmp_path / "killed", at_call(call, kill))
    again, trainer = both(tmp_path / "killed", plain_losses)
    assert identical(whole.state_dict(), again.state_dict())
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "killed" / "log.jsonl").read_text()
    assert (
        [e["stage"] for e in trainer.history]
        == [e["stage"] for e in whole_trainer.history]
        == 2 * ["slow"] + 2 * ["fast"]
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_steps_are_nesterov_sgd_at_the_logged_rates(tmp_path, task, momentum):
    """The loss is one bias, so its gradient is 1 in every step and the path can be written down."""
    model = make_model(task)
    bias = model.classifiers[0].bias
    expected, velocity = bias[3].item(), 0.0
    model, _ = fit(tmp_path, task, lambda *_: {"bias": bias[3]}, model, momentum=momentum, weight_decay=0)
    for entry in log_of(tmp_path):
        velocity = momentum * velocity + 1
        expected -= entry["lr"] * (1 + momentum * velocity)
    assert bias[3].item() == pytest.approx(expected, abs=1e-6)


def test_history_holds_the_mean_of_the_logged_losses(tmp_path, task):
    _, trainer = fit(tmp_path, task)
    for epoch in (0, 1):
        logged = [entry["ce"] for entry in log_of(tmp_path) if entry["epoch"] == epoch]
        assert trainer.history[epoch]["ce"] == pytest.approx(sum(logged) / len(logged))
        assert trainer.history[epoch]["stage"] == "fit" and trainer.history[epoch]["seconds"] > 0


def test_every_epoch_sees_other_crops(tmp_path, task):
    seen = []

    def losses(forward, images, labels):
        seen.append(images.clone())
        return plain_losses(forward, images, labels)

    fit(tmp_path, task, losses)
    first, second = seen[: len(seen) // 2], seen[len(seen) // 2 :]
    assert not any(torch.equal(image, other) for image in torch.cat(first) for other in torch.cat(second))


def test_training_lowers_the_loss(tmp_path, task):
    _, trainer = fit(tmp_path, task, epochs=6)
    assert trainer.history[-1]["ce"] < 0.7 * trainer.history[0]["ce"]


def test_accumulation_is_the_step_of_the_whole_batch_with_grouped_batch_norm(tmp_path, task):
    def change(name, **train):
        before = dict(make_model(task).named_parameters())
        model, _ = fit(tmp_path / name, task, batch=16, epochs=1, weight_decay=0, **train)
        return {name: (parameter - before[name]).detach() for name, parameter in model.named_parameters()}

    def distance(first, second):
        norms = [torch.linalg.vector_norm(first[name] - second[name]) for name in first]
        return (torch.stack(norms).norm() / torch.stack([value.norm() for value in first.values()]).norm()).item()

    accumulated = change("accumulate", accumulate=2)
    assert distance(accumulated, change("grouped", bn_group=8)) < 1e-4
    assert distance(accumulated, change("chunks in groups", accumulate=2, bn_group=8)) == 0
    assert distance(accumulated, change("whole")) > 1e-2
    losses = [log_of(tmp_path / name)[0]["ce"] for name in ("accumulate", "grouped", "whole")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5) and losses[0] != pytest.approx(losses[2], rel=1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_is_close_to_full(tmp_path, task, precision):
    fit(tmp_path / "full", task, epochs=1)
    model, _ = fit(tmp_path / "half", task, epochs=1, precision=precision)
    full, half = (log_of(tmp_path / name) for name in ("full", "half"))
    assert half[0]["ce"] == pytest.approx(full[0]["ce"], rel=0.03) and half[0]["ce"] != full[0]["ce"]
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_loss_that_is_not_finite_stops_with_the_place_and_keeps_the_checkpoint(tmp_path, task, value):
    steps, model = len(task.train_indices) // 8, make_model(task)
    seen = []

    def spoil(terms):
        seen.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        return terms | {"extra": terms["ce"] * value}

    with pytest.raises(InputError) as caught:
        fit(tmp_path, task, at_call(steps + 1, spoil), model)
    message = str(caught.value)
    assert f"task 0, epoch 1, iteration {steps + 1}" in message and f"extra {value:.3g}" in message
    assert "--train.lr" in message and "\n" not in message
    assert identical(seen[0], dict(model.named_parameters()))  # no step was taken with it
    assert checkpoint(tmp_path)[1]["epochs"] == 1
    assert len(log_of(tmp_path)) == steps + 1


def kill(_):
    raise Killed


def interrupted(folder, task):
    """A run that was killed in the middle of its second epoch."""
    with pytest.raises(Killed):
        fit(folder, task, at_call(len(task.train_indices) // 8 + 1, kill))
    assert len(log_of(folder)) == len(task.train_indices) // 8 + 1


def test_resumed_run_is_bit_identical(tmp_path, task):
    whole, whole_trainer = fit(tmp_path / "whole", task)
    interrupted(tmp_path / "killed", task)
    resumed, trainer = fit(tmp_path / "killed", task, model=make_model(task, seed=1))
    assert identical(whole.state_dict(), resumed.state_dict())
    tensors, facts = checkpoint(tmp_path / "whole")
    tensors_again, facts_again = checkpoint(tmp_path / "killed")
    assert identical(tensors, tensors_again)
    assert any(name.endswith("momentum_buffer") for name in tensors)
    assert facts["epochs"] == facts_again["epochs"] == 2 and facts["scaler"] == facts_again["scaler"]
    assert (tmp_path / "whole" / "log.jsonl").read_text() == (tmp_path / "killed" / "log.jsonl").read_text()
    losses = [[epoch["ce"] for epoch in one.history] for one in (whole_trainer, trainer)]
    assert losses[0] == losses[1]


def test_resume_without_the_momentum_is_something_else(tmp_path, task):
    whole, _ = fit(tmp_path / "whole", task)
    interrupted(tmp_path / "killed", task)
    tensors, facts = checkpoint(tmp_path / "killed")
    parameters = {name: value for name, value in tensors.items() if name.startswith("model.")}
    save_tensors(tmp_path / "killed" / "work" / "fit.safetensors", parameters, facts)
    resumed, _ = fit(tmp_path / "killed", task)
    assert not identical(whole.state_dict(), resumed.state_dict())


def test_finished_stage_returns_at_once(tmp_path, task):
    first, trainer = fit(tmp_path, task)
    again, trainer_again = fit(tmp_path, task, at_call(0, kill), make_model(task, seed=1))
    assert identical(first.state_dict(), again.state_dict())
    assert trainer_again.history == trainer.history


def test_checkpoint_of_another_network(tmp_path, task):
    fit(tmp_path, task, epochs=1)
    other = make_model(task)
    other.grow([20])
    with pytest.raises(InputError, match=r"fit.safetensors holds another network"):
        fit(tmp_path, task, model=other)


def test_once_computes_once(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return {"thresholds": torch.tensor([0.25, 0.5])}

    for _ in range(3):
        trainer = make_trainer(tmp_path)
        tensors = trainer.once("thresholds", compute)
        assert tensors["thresholds"].tolist() == [0.25, 0.5]
        assert trainer.seconds["thresholds"] > 0  # known after a restart, too
    assert len(calls) == 1
    make_trainer(tmp_path).once("another", compute)
    assert len(calls) == 2


def test_a_pass_repeats_itself_and_leaves_gradients_to_the_caller(tmp_path, task):
    model, trainer = make_model(task), make_trainer(tmp_path)
    first, again, other = (list(trainer.passes(task, model, purpose)) for purpose in ("a", "a", "b"))
    assert len(first) == len(task.train_indices) // 8
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        assert images.shape == (8, 3, 32, 32) and labels.shape == (8, 32, 32)
        assert torch.equal(images, images_again) and torch.equal(labels, labels_again)
    assert not torch.equal(first[0][0], other[0][0])
    for images, _ in trainer.passes(task, model, "a"):
        assert images.min() < 0 and model(images).logits.requires_grad
