"""The baselines beside PLOP: what their losses must do whatever the numbers, and each of them on a small stream."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shapes import first_model, make_trainer, second_task, small_stream
from small_voc import Killed, after_first_task, css, read_results, run_arguments
from torch.nn import functional as F

from css.config.methods import METHODS, WRAPPERS
from css.config.settings import RunConfig, TrainConfig
from css.losses import cross_entropy
from css.method.contract import Method, plain_losses
from css.method.registry import method_class
from css.model.output import Output
from css.model.segmenter import Head, Segmenter
from css.system.tensors import load_tensors
from plop_baseline.ewc import UPDATES, Ewc, EwcOptions, Importance, importance_batches, mean_gradients, penalty
from plop_baseline.frozen import VIEWS, Frozen
from plop_baseline.ilt import Ilt, encoder_output
from plop_baseline.lwf import Lwf, bce_distillation, distillation
from plop_baseline.lwf_mc import LwfMc, binary_cross_entropy
from plop_baseline.mib import Mib, unbiased_cross_entropy, unbiased_distillation
from tasks import InputError

NEW = ("mib", "ilt", "lwf", "lwf-mc", "ewc", "frozen")
TERMS = {
    "mib": {"ce", "kd"},
    "ilt": {"ce", "kd", "features"},
    "lwf": {"ce", "kd"},
    "lwf-mc": {"bce", "kd"},
    "ewc": {"ce", "penalty"},
    "frozen": {"ce"},
}

# ---------------------------------------------------------------- losses


@st.composite
def situations(draw):
    """New logits, old logits, labels (background, new classes, void) and a mask of any small shape."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    num_old, num_new, batch, height, width = (
        draw(st.integers(low, 4)) for low in (1, 1, 1, 1, 1)
    )  # num_old = 1: nothing but the background is old
    new = 3 * torch.randn(batch, num_old + num_new, height, width, generator=generator, dtype=torch.float64)
    old = 3 * torch.randn(batch, num_old, height, width, generator=generator, dtype=torch.float64)
    labels = torch.randint(num_old - 1, num_old + num_new + 1, (batch, height, width), generator=generator)
    labels[labels == num_old - 1] = 0
    labels[labels == num_old + num_new] = 255
    return new, old, labels.to(torch.uint8), torch.rand(batch, height, width, generator=generator) < 0.5


def plain(logits, labels):
    return F.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")


@given(situations())
@settings(deadline=None, max_examples=40)
def test_unbiased_cross_entropy_is_that_of_merged_classes(situation):
    """By definition: the probability of the background label is the sum over background and old classes."""
    new, old, labels, _ = situation
    num_old = old.shape[1]
    p = new.softmax(1)
    merged = torch.cat([p[:, :num_old].sum(1, keepdim=True), p[:, num_old:]], 1)
    expected = plain(merged.log(), torch.where(labels == 255, labels, (labels.int() - num_old + 1).clamp(min=0)))
    torch.testing.assert_close(unbiased_cross_entropy(new, labels, num_old), expected)
    torch.testing.assert_close(unbiased_cross_entropy(new, labels, 1), plain(new, labels))  # no old class: plain


@given(situations())
@settings(deadline=None, max_examples=40)
def test_losses_leave_void_and_masked_pixels_out(situation):
    new, old, labels, mask = situation
    void = labels == 255
    assert not unbiased_cross_entropy(new, labels, old.shape[1])[void].any()
    assert not binary_cross_entropy(new, labels)[void].any()
    assert not unbiased_cross_entropy(new, labels, old.shape[1], mask)[mask].any()
    for loss in (distillation, unbiased_distillation):
        masked = loss(new, old, mask=mask)
        assert not masked[~mask].any() and torch.equal(masked[mask], loss(new, old)[mask])
    assert (unbiased_cross_entropy(new, labels, old.shape[1])[~void] > 0).all()


def test_unbiased_cross_entropy_does_not_push_old_classes_down():
    """Negative control: plain cross-entropy does, at a pixel of an old class whose label is now background."""
    logits = torch.tensor([0.0, 4.0, 0.0]).view(1, 3, 1, 1).requires_grad_()  # channel 1 is old, 2 is new
    label = torch.zeros(1, 1, 1, dtype=torch.uint8)
    unbiased, biased = (
        torch.autograd.grad(loss.sum(), logits)[0].flatten()
        for loss in (unbiased_cross_entropy(logits, label, 2), plain(logits, label))
    )
    assert unbiased[1] < 0 < unbiased[2]  # a negative gradient raises the logit
    assert biased[1] > 0.9


def gradient_norm(loss, new, old):
    new = new.clone().requires_grad_()
    return torch.autograd.grad(loss(new, old).mean(), new)[0].abs().max().item()


@given(situations())
@settings(deadline=None, max_examples=40)
def test_distillation_has_its_minimum_where_the_models_agree(situation):
    new, old, *_ = situation
    num_old, num_new = old.shape[1], new.shape[1] - old.shape[1]
    unchanged = torch.cat([old, new[:, num_old:]], 1)
    assert gradient_norm(distillation, unchanged, old) < 1e-12
    assert gradient_norm(bce_distillation, unchanged, old) < 1e-12
    # The balanced initialisation: background and new classes share what the background had.
    shared = old[:, :1] - math.log(num_new + 1)
    balanced = torch.cat([shared, old[:, 1:], shared.expand(-1, num_new, -1, -1)], 1)
    assert gradient_norm(unbiased_distillation, balanced, old) < 1e-12
    for loss, best in [(distillation, unchanged), (bce_distillation, unchanged), (unbiased_distillation, balanced)]:
        assert (loss(new, old) >= loss(best, old) - 1e-12).all()


def test_plain_distillation_is_not_at_rest_where_the_unbiased_one_is():
    """Negative control of the test above, and the other way round."""
    old = torch.tensor([2.0, 1.0, 0.0]).view(1, 3, 1, 1)
    shared = old[:, :1] - math.log(2)
    balanced, unchanged = torch.cat([shared, old[:, 1:], shared], 1), torch.cat([old, old[:, :1]], 1)
    assert gradient_norm(distillation, balanced, old) > 1e-2
    assert gradient_norm(unbiased_distillation, unchanged, old) > 1e-2


@given(situations(), st.floats(0.25, 4))
@settings(deadline=None, max_examples=20)
def test_alpha_sharpens_the_old_model_alone(situation, alpha):
    new, old, *_ = situation
    for loss in (distillation, unbiased_distillation):
        torch.testing.assert_close(loss(new, old, alpha), loss(new, alpha * old))


def test_distillation_does_not_see_the_new_classes_and_the_unbiased_one_does():
    old, new = torch.randn(1, 3, 2, 2), torch.randn(1, 5, 2, 2)
    other = torch.cat([new[:, :3], new[:, 3:] + 1], 1)
    assert torch.equal(distillation(new, old), distillation(other, old))
    assert torch.equal(bce_distillation(new, old), bce_distillation(other, old))
    assert not torch.allclose(unbiased_distillation(new, old), unbiased_distillation(other, old))


# ---------------------------------------------------------------- methods on one model


@pytest.fixture(scope="module")
def stream():
    return small_stream()


def a_batch(task, size=64):
    labels = torch.randint(0, len(task.new_classes), (2, size, size)) + len(task.old_classes)
    return torch.randn(2, 3, size, size), torch.where(torch.rand(labels.shape) < 0.5, 0, labels).to(torch.uint8)


@pytest.mark.parametrize("method", [Mib, Lwf, LwfMc, Ilt], ids=lambda method: method.__name__)
def test_losses_reach_the_model_and_not_the_teacher(stream, method):
    task, model, teacher = second_task(stream)
    terms = method().losses(task, model.train(), teacher, *a_batch(task))
    assert all(term.shape == () and term.dtype == torch.float32 and term > 0 for term in terms.values())
    sum(terms.values()).backward()
    for part in (model.encoder, model.decoder, *model.classifiers):
        assert any(parameter.grad.any() for parameter in part.parameters())
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize("method", [Mib, Lwf, LwfMc, Ilt], ids=lambda method: method.__name__)
def test_losses_are_float32_under_autocast(stream, method):
    task, model, teacher = second_task(stream)
    with torch.autocast("cpu", torch.bfloat16):
        terms = method().losses(task, model, teacher, *a_batch(task))
        assert model(torch.randn(2, 3, 64, 64)).taps[-1].dtype == torch.bfloat16
    assert {term.dtype for term in terms.values()} == {torch.float32}


@pytest.mark.parametrize(("name", "option", "term"), [("mib", "kd_weight", "kd"), ("lwf", "kd_weight", "kd"),
    ("lwf-mc", "kd_weight", "kd"), ("ilt", "kd_weight", "kd"), ("ilt", "feature_weight", "features")])  # fmt: skip
def test_weights_are_options(stream, name, option, term):
    task, model, teacher = second_task(stream)
    batch, method = a_batch(task), method_class(name)
    usual = method().losses(task, model.eval(), teacher, *batch)
    lighter = method(method.Options(**{option: 1.0})).losses(task, model, teacher, *batch)
    assert usual[term].item() == pytest.approx(getattr(method.Options(), option) * lighter[term].item(), rel=1e-5)
    assert all(usual[other] == lighter[other] for other in usual.keys() - {term})


@pytest.mark.parametrize("encoder", ["resnet18", "tu-test_resnet", "tu-tf_efficientnet_lite0"])
def test_ilt_distils_what_the_decoder_is_given(encoder):
    torch.manual_seed(0)
    model = Segmenter(encoder).eval()
    model.grow([0, 1])
    images, seen = torch.randn(2, 3, 64, 64), []
    model.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][-1]))
    output = model(images)
    assert torch.equal(encoder_output(model, output), seen[0])
    assert torch.equal(output.taps[-1], seen[0]) == (encoder != "resnet18")  # a ResNet's tap alone is another map


def test_ilt_compares_activated_features():
    """Two taps that differ only where they are negative are the same to it."""
    model = Segmenter("resnet18")
    logits, labels = torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)

    class Teacher:
        encoder = model.encoder

        def __call__(self, _):
            return Output(logits, logits, (torch.tensor([[[[-1.0, 2.0]]]]),))

    def features(tap):
        answer = Output(logits, logits, (torch.tensor([[[tap]]]),))
        task = SimpleNamespace(old_classes=[0, 1])
        return Ilt().losses(task, lambda _: answer, Teacher(), None, labels)["features"].item()

    assert features([-3.0, 2.0]) == 0
    assert features([-3.0, 3.0]) == pytest.approx(100 / 2)


# ---------------------------------------------------------------- frozen


def copies(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def test_frozen_changes_the_new_classifier_alone(stream, tmp_path):
    task, model, teacher = second_task(stream)
    before = copies(model) | {"classifiers.0.bias": teacher.classifiers[0].bias.clone()}
    Frozen().learn(task, model, teacher, make_trainer(tmp_path))
    assert changed(model, before) == {"classifiers.1.weight", "classifiers.1.bias"}
    assert all(parameter.requires_grad for parameter in model.parameters())
    images = torch.randn(1, 3, 64, 64)
    old = len(task.old_classes)
    assert torch.equal(model.eval()(images).logits[:, :old], teacher(images).logits)


def test_fine_tuning_changes_statistics_and_old_classifiers(stream, tmp_path):
    """Negative control: the comparison above sees what is not frozen."""
    task, model, teacher = second_task(stream)
    before = copies(model)
    method_class("finetune")().learn(task, model, teacher, make_trainer(tmp_path))
    for part in ("running_mean", "encoder", "decoder", "classifiers.0.weight", "classifiers.0.bias"):
        assert any(part in name for name in changed(model, before))


def test_frozen_trains_its_first_task_whole(stream, tmp_path):
    model = first_model(stream)
    before = copies(model)
    Frozen().learn_first(stream.task(0), model, make_trainer(tmp_path))
    for part in ("running_mean", "encoder", "decoder", "classifiers"):
        assert any(part in name for name in changed(model, before))


def test_frozen_resumes(stream, tmp_path, monkeypatch):
    """Killed in its second epoch: requires_grad is as before, and a new process ends at the same tensors."""
    task, whole, teacher = second_task(stream)
    Frozen().learn(task, whole, teacher, make_trainer(tmp_path / "whole", epochs=2))

    _, model, teacher = second_task(stream)
    steps, done = max(1, len(task.train_indices) // 8), iter(range(1000))

    def losses(self, *arguments, original=Frozen.losses):
        if next(done) >= steps:
            raise Killed
        return original(self, *arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Frozen, "losses", losses)
        Frozen().learn(task, model, teacher, make_trainer(tmp_path / "killed", epochs=2))
    assert all(parameter.requires_grad for parameter in model.parameters())

    _, again, teacher = second_task(stream)
    Frozen().learn(task, again, teacher, make_trainer(tmp_path / "killed", epochs=2))
    assert not changed(again, copies(whole)) and changed(again, copies(model))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_frozen_features_are_computed_once_per_view(stream, tmp_path):
    """Epochs run on features of two views, which are those of the network; the encoder sees no more than these."""
    task, model, teacher = second_task(stream)
    seen = []
    model.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    trainer = make_trainer(tmp_path, epochs=5)
    Frozen().learn(task, model, teacher, trainer)
    assert len(trainer.history) == 5 and all(entry["ce"] > 0 for entry in trainer.history)
    images = max(1, len(task.train_indices) // 8) * 8
    assert sum(seen) == VIEWS * images

    views = trainer.look_once(task, model, VIEWS)
    state = torch.get_rng_state()
    again = trainer.look_once(task, model, VIEWS)
    assert torch.equal(again.features, views.features) and torch.equal(torch.get_rng_state(), state)
    batch, labels = next(iter(trainer.passes(task, model, "view 1")))
    with torch.no_grad():
        assert torch.equal(views.features[1, :8], model.eval()(batch).features)
        assert torch.equal(Head(model)(views.features[1, :8]).logits, model(batch).logits)
    assert torch.equal(views.labels[1, :8], labels) and not torch.equal(views.features[0, :8], views.features[1, :8])
    chosen = {seed: views[3, seed][0] for seed in (6, 7)}
    assert torch.equal(chosen[6], views.features[0, 3]) and torch.equal(chosen[7], views.features[1, 3])


def test_a_disk_too_small_for_features(stream, tmp_path, monkeypatch):
    task, model, teacher = second_task(stream)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(InputError, match=r"features of a task's images need .* GB in .*free some space"):
        Frozen().learn(task, model, teacher, make_trainer(tmp_path))
    assert not list(tmp_path.glob("**/*.map"))
    assert all(parameter.requires_grad for parameter in model.parameters())


# ---------------------------------------------------------------- EWC


@given(st.lists(st.floats(-10, 10), min_size=2, max_size=6), st.integers(1, 5))
def test_importance_is_between_0_and_1(values, updates):
    importance = Importance()
    for k in range(updates):
        importance.update({"a": torch.tensor(values, dtype=torch.float64) * (k + 1)}, alpha=0.9)
    normalised = importance.normalised()["a"]
    assert (normalised >= 0).all() and (normalised < 1).all() and (normalised == 0).any()


def test_importance_forgets_its_start_within_the_updates_of_a_task():
    """In float32, at the size of real gradients: neither the start value nor the task before is left."""
    gradients = {"a": torch.tensor([1e-6, 4e-6, 2e-6])}

    def after(updates, start):
        importance = Importance(start)
        for _ in range(updates):
            importance.update(gradients, EwcOptions().alpha)
        return importance.normalised()["a"]

    longer = after(30, {})
    other_task = {"a": torch.tensor([9e-9, 1e-9, 2e-9])}
    for start in ({}, other_task):
        torch.testing.assert_close(after(UPDATES, start), longer, rtol=1e-3, atol=0)
    assert not torch.allclose(after(2, other_task), longer, rtol=0.1)  # negative control: two do not


def finished(stream, folder, model):
    method = Ewc()
    method.finish(stream.task(0), model, make_trainer(folder))
    return method


def test_ewc_measures_the_model_without_changing_it(stream, tmp_path):
    model = first_model(stream)
    before = copies(model)
    method = finished(stream, tmp_path, model)
    assert not changed(model, before)
    assert torch.is_grad_enabled() and all(parameter.grad is None for parameter in model.parameters())
    assert method.tensors().keys() == dict(model.named_parameters()).keys()
    assert all((fisher >= 0).all() and fisher.isfinite().all() for fisher in method.tensors().values())
    again = finished(stream, tmp_path, model).tensors()
    assert all(torch.equal(again[name], fisher) for name, fisher in method.tensors().items())


def test_gradients_are_those_of_the_whole_batch(stream, tmp_path):
    """Taken in parts, even unequal ones; negative control: parts that all count the same."""
    model, task = first_model(stream).eval(), stream.task(0)
    images = torch.randn(5, 3, 64, 64)
    labels = torch.randint(0, len(task.new_classes), (5, 64, 64), dtype=torch.uint8)

    def of(loss):
        return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, [*model.parameters()]), strict=True))

    with torch.no_grad():  # as while a pass over the data is under way
        found = mean_gradients(model, images, labels, make_trainer(tmp_path), cross_entropy)
    assert not torch.equal(found["classifiers.0.bias"], torch.zeros(len(task.new_classes)))
    torch.testing.assert_close(found, of(plain_losses(model, images, labels)["ce"]), rtol=1e-3, atol=1e-6)
    parts = [plain_losses(model, images[part], labels[part])["ce"] / 2 for part in (slice(0, 3), slice(3, 5))]
    equal = of(sum(parts))["classifiers.0.bias"]
    assert not torch.allclose(found["classifiers.0.bias"], equal, rtol=1e-3, atol=1e-6)


def test_small_tasks_are_passed_again_with_other_crops(stream, tmp_path):
    model, trainer, task = first_model(stream), make_trainer(tmp_path), stream.task(0)
    assert len(task.train_indices) // 8 < UPDATES
    seen = [images.sum().item() for images, _ in importance_batches(task, model, trainer)]
    assert len(seen) == UPDATES == len(set(seen))
    assert torch.is_grad_enabled()


def test_ewc_holds_old_parameters_where_the_task_starts(stream, tmp_path):
    task, model, teacher = second_task(stream)
    method, batch = Ewc(Ewc.Options(7.0)), a_batch(task)
    method.load_tensors({name: _index(parameter) for name, parameter in teacher.named_parameters()})
    method.prepare(task, model, teacher, make_trainer(tmp_path))
    assert method.losses(task, model, teacher, *batch)["penalty"] == 0
    with torch.no_grad():
        model.classifiers[0].bias[-1] += 3  # the largest importance of its tensor, so 1
        model.classifiers[1].bias += 5  # new, so free
    term = method.losses(task, model, teacher, *batch)["penalty"]
    assert term.item() == pytest.approx(7 * 9, rel=1e-4)
    gradients = torch.autograd.grad(term, [*model.parameters()], allow_unused=True)
    assert gradients[-1] is None and gradients[-2] is None


@pytest.mark.parametrize(("momentum", "lr"), [(0.9, 0.005), (0.0, 0.01)])
def test_ewc_refuses_weights_at_which_sgd_diverges(momentum, lr):
    def distance(weight):
        """From the old value, after SGD on the penalty of one parameter of importance 1."""
        parameter = torch.ones(1, dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([parameter], lr=lr, momentum=momentum, nesterov=momentum > 0)
        for _ in range(300):
            optimizer.zero_grad()
            (weight * penalty({"a": parameter}, {"a": torch.zeros(1)}, {"a": torch.ones(1)})).backward()
            optimizer.step()
        return abs(parameter.item())

    def check(weight):
        train = TrainConfig(momentum=momentum, later_lr=lr)
        Ewc(Ewc.Options(weight)).check(RunConfig("voc", "15-1", "ewc", train=train))

    limit = (1 + momentum) / (1 + 2 * momentum) / lr
    check(0.98 * limit)
    assert distance(0.98 * limit) < 0.5 and distance(1.02 * limit) > 2
    for weight in (1.02 * limit, -1.0, math.nan):
        with pytest.raises(InputError, match=f"--options.weight.*below {limit:.4g}.*--train.later-lr {lr:g}"):
            check(weight)


@pytest.mark.parametrize("alpha", [0.0, -0.1, 1.1])
def test_ewc_refuses_shares_that_are_none(alpha):
    with pytest.raises(InputError, match=r"--options\.alpha"):
        Ewc(EwcOptions(alpha=alpha)).check(RunConfig("voc", "15-1", "ewc"))


def test_ewc_keeps_important_parameters_nearer(stream, tmp_path):
    def distance(method, folder):
        task, model, teacher = second_task(stream)
        method.load_tensors({name: _index(parameter) for name, parameter in teacher.named_parameters()})
        method.learn(task, model, teacher, make_trainer(folder, epochs=4))
        old = dict(teacher.named_parameters())
        return penalty(dict(model.named_parameters()), old, method.held).item()

    strong, weak = (distance(Ewc(Ewc.Options(weight)), tmp_path / str(weight)) for weight in (5.0, 0.0))
    assert strong < 0.8 * weak


def _index(parameter):
    return torch.arange(parameter.numel(), dtype=torch.float32).view_as(parameter)


# ---------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Finished two-task runs; all start from one first task, except EWC, which a test kills in the middle."""
    folder = tmp_path_factory.mktemp("runs")

    def finished(name):
        if not (folder / name).exists():
            task0 = [] if name in ("finetune", "ewc") else ["--task0", finished("finetune")]
            outcome = css(*run_arguments(data, folder, name, "--method", name, *task0, protocol="2-1"))
            assert outcome.code == 0, outcome.err
        return folder / name

    return finished


@pytest.fixture
def few_updates(monkeypatch):
    """EWC looks at two batches of a task: enough for what is asserted of whole runs."""
    monkeypatch.setattr("plop_baseline.ewc.UPDATES", 2)


@pytest.mark.usefixtures("few_updates")
@pytest.mark.parametrize("name", NEW)
def test_small_stream(name, runs):
    results = read_results(runs(name))
    assert results["complete"] and len(results["tasks"]) == 2
    (epoch,) = results["tasks"][1]["history"]
    assert epoch.keys() - {"stage", "epoch", "seconds"} == TERMS[name]
    fine_tuned = read_results(runs("finetune"))["tasks"]
    assert results["tasks"][0]["confusion"] == fine_tuned[0]["confusion"]  # the first task is that of every method
    assert results["tasks"][1]["confusion"] != fine_tuned[1]["confusion"]


def test_frozen_stream_keeps_every_tensor_of_the_first_task(runs):
    def model(run, task):
        return load_tensors(run / f"task_{task}" / "model.safetensors")[0]

    first, last = model(runs("frozen"), 0), model(runs("frozen"), 1)
    assert all(torch.equal(last[name], value) for name, value in first.items())
    assert last.keys() - first.keys() == {"model.classifiers.1.weight", "model.classifiers.1.bias"}


@pytest.mark.usefixtures("few_updates")
@pytest.mark.parametrize("moment", ["css.run.flow.write_results", "plop_baseline.ewc.penalty"])
def test_ewc_is_killed_and_goes_on(moment, runs, data, tmp_path, monkeypatch):
    """Between the tasks, and within the second: the importance comes back from disk, bit by bit."""
    again = run_arguments(data, tmp_path, "ewc", "--method", "ewc", protocol="2-1")
    if moment == "plop_baseline.ewc.penalty":  # which the first task has not
        after_first_task(runs("ewc"), tmp_path / "ewc")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(moment, _kill)
        css(*again)
    assert not (tmp_path / "ewc" / "task_1").exists()
    assert css(*again).code == 0
    for task in (0, 1):
        expected, found = (
            load_tensors(run / f"task_{task}" / "model.safetensors")[0] for run in (runs("ewc"), tmp_path / "ewc")
        )
        assert any(name.startswith("method.") for name in expected) and expected.keys() == found.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def _kill(*_, **__):
    raise Killed


@pytest.mark.usefixtures("few_updates")
def test_ewc_measures_a_first_task_taken_from_another_run(runs, data, tmp_path):
    options = ["--method", "ewc", "--task0", runs("finetune")]
    assert css(*run_arguments(data, tmp_path, "shared", *options, protocol="2-1")).code == 0
    own, shared = (load_tensors(run / "task_1" / "model.safetensors")[0] for run in (runs("ewc"), tmp_path / "shared"))
    assert all(torch.equal(shared[name], value) for name, value in own.items())


def test_options_on_the_command_line(runs, data, tmp_path):
    options = ["--method", "mib", "--options.kd-weight", "100", "--task0", runs("finetune")]
    assert css(*run_arguments(data, tmp_path, "mib", *options, protocol="2-1")).code == 0
    terms, usual = (read_results(run)["tasks"][1]["history"][0] for run in (tmp_path / "mib", runs("mib")))
    assert terms["kd"] > 2 * usual["kd"]
    assert "15-1 used 100" in " ".join(
        css("run", "voc", "15-1", "--method", "mib", "--help").out.replace("│", "").split()
    )
    unknown = css(*run_arguments(data, tmp_path, "bad", "--method", "frozen", "--options.kd-weight", "1"))
    assert unknown.code == 2 and not (tmp_path / "bad").exists()


def test_list():
    listed = {line.split()[0]: line for line in css("list").out.splitlines() if line.startswith("  ")}
    assert set(listed) == {*METHODS, *(f"plop+{name}" for name in WRAPPERS)} and set(METHODS) >= set(NEW)
    assert "keeps images" in listed["plop+replay"]
    assert all(
        issubclass(method_class(name), Method) and listed[name].endswith(f" {method_class(name).summary}")
        for name in METHODS
    )
