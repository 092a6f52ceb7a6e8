"""What Split2MetaFusion hands to its parts, and keeps from task to task; whole runs are in test_s2mf.py."""

from types import SimpleNamespace

import pytest
import torch
from small_shapes import make_trainer, second_task, small_stream
from torch import nn
from torch.nn import functional as F

from css.dream.dreamer import DreamOptions, Dreams
from css.dream.layouts import LayoutStatistics
from css.fusion.gates import linear
from css.fusion.meta import Fusion, FusionOptions
from css.fusion.reestimate import reestimate_batch_norm
from css.kinds.classification import Classification
from css.kinds.segmentation import Segmentation
from css.losses import kl_divergence
from css.method.contract import plain_losses
from css.model.state import snapshot
from css.nullspace import GradientStatistics, Rule, projector
from css.nullspace.layers import rows_of
from css.s2mf.algorithm import Split2MetaFusion
from css.s2mf.slow import StatisticsOptions, _label_loss, _logit_loss, _sampled_loss, divide_epochs
from css.system.tensors import part, prefixed
from plop_baseline.finetune import Finetune

METHOD = Split2MetaFusion


def method(**options):
    return METHOD(METHOD.Options(**options), Finetune())


@pytest.fixture(scope="module")
def stream():
    return small_stream()


def dreams(value, count=10):
    return Dreams(torch.full((count, 3, 64, 64), float(value)), torch.zeros(count, 64, 64, dtype=torch.uint8), [])


def states(model):
    """Two states of a network that differ by 1 everywhere."""
    slow = snapshot(model)
    return slow, {name: value + 1 if value.is_floating_point() else value for name, value in slow.items()}


# ---------------------------------------------------------------- stages


def test_epochs_of_slow_and_fast_model():
    assert [divide_epochs(*numbers, "") for numbers in ((8, 0.25), (30, 0.25), (2, 0.25), (8, 0.5), (5, 0.3))] == [
        (6, 2), (22, 8), (1, 1), (4, 4), (3, 2),
    ]  # fmt: skip


def test_the_fast_model_goes_on_from_the_slow_one(stream, tmp_path, monkeypatch):
    """Eq. 8. Every stage moves one weight by 1 here."""
    task, model, teacher = second_task(stream)
    trainer, fitted, given = make_trainer(tmp_path, epochs=8), [], []
    name = "decoder.conv.weight"
    before = model.state_dict()[name].clone()

    def fit(network, task, losses, stage="fit", epochs=None, **others):
        fitted.append((stage, epochs, others.get("batch_norm")))
        with torch.no_grad():
            network.get_parameter(name).add_(1)

    def fuse(self, task, model, slow, fast, *others):
        given.extend([slow, fast])
        return prefixed(state=fast)

    monkeypatch.setattr(trainer, "fit", fit)
    monkeypatch.setattr(METHOD, "_dreams", lambda *_: (dreams(0), dreams(1)))
    monkeypatch.setattr(METHOD, "_fuse", fuse)
    method(projector="none", batch_norm="freeze", align=False).learn(task, model, teacher, trainer)
    assert fitted == [("slow", 6, "freeze"), ("fast", 2, None)]
    torch.testing.assert_close(given[0][name], before + 1)
    torch.testing.assert_close(given[1][name], before + 2)


def test_every_step_of_the_slow_model_is_projected(stream, tmp_path, monkeypatch):
    """Not the total alone, which is projected once more at the end: that is left out here."""
    task, model, _ = second_task(stream)
    learner, start = method(projector="nsp"), snapshot(model)
    learner.statistics.collect_features(model, [(torch.randn(4, 3, 64, 64), None)])
    projectors = projector(learner.statistics, Rule())
    monkeypatch.setattr("css.s2mf.slow.project_total", lambda *_: None)

    def outside():
        """The largest share of the update of a layer that lies in the protected directions."""
        shares = []
        for name, project in projectors.items():
            if not name.startswith("classifiers."):
                now, bias = model.state_dict(), name.replace("weight", "bias")
                update = rows_of(now[name] - start[name], now[bias] - start[bias] if bias in now else None)
                if update.norm() > 1e-3 * start[name].norm():  # less is rounding
                    shares.append(float((update - project(update)).norm() / update.norm()))
        return max(shares)

    learner.learn_slow(task, model, make_trainer(tmp_path / "slow"), plain_losses, 1)
    assert outside() < 1e-3
    model.load_state_dict(start)
    make_trainer(tmp_path / "free").fit(model, task, plain_losses)
    assert outside() > 0.05


def test_rule_and_softness_reach_the_projector(monkeypatch):
    given = []
    monkeypatch.setattr("css.s2mf.slow.projector", lambda *arguments: given.append(arguments) or {})
    learner = method(projector="tpnsp", rule=Rule("fraction", 0.3), soft=True)
    assert learner._projectors() == {} and given == [(learner.statistics, Rule("fraction", 0.3), True)]


# ---------------------------------------------------------------- dreams


@pytest.mark.parametrize("layouts", ["statistics", "free"])
def test_sources_and_queries_of_dreams(layouts, stream, tmp_path, monkeypatch):
    """Old classes are dreamt of by the old model, new ones by the fast model (Eq. 9)."""
    task, model, teacher = second_task(stream)
    sources, asked = [], []

    class Recorder:
        def __init__(self, source, *_):
            sources.append(source)

        def dream(self, queries, what, size):
            return dreams(0, len(queries))

    def queries(self, count, size, channels, seed, known):
        asked.append((count, size, channels, known))
        return torch.zeros(count, size, size, dtype=torch.uint8)

    monkeypatch.setattr("css.s2mf.algorithm.Dreamer", Recorder)
    monkeypatch.setattr(Segmentation, "queries", queries)
    learner = method(layouts=layouts, dream=DreamOptions(count=10))
    learner._dreams(task, model, teacher, make_trainer(tmp_path))
    assert sources[0] is teacher
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in sources[1].state_dict().items())
    known = learner.layouts if layouts == "statistics" else None
    assert asked == [(10, 64, range(1, 11), known), (10, 64, range(11, 16), known)]


# ---------------------------------------------------------------- fusion


@pytest.mark.parametrize("fusion", ["meta", "linear"])
def test_what_the_fusion_is_given(fusion, stream, tmp_path, monkeypatch):
    task, model, teacher = second_task(stream)
    slow, fast = states(model)
    calls = []
    monkeypatch.setattr(
        "css.s2mf.algorithm.MetaFusion.fuse",
        lambda *arguments: calls.append(arguments) or Fusion(dict(arguments[0].fast), {}, []),
    )
    monkeypatch.setattr(
        "css.s2mf.algorithm.MetaFusion.best_linear", lambda *arguments: calls.append(arguments) or (0.5, [])
    )
    learner = method(fusion=fusion, current_images=3)
    learner._fuse(task, model, slow, fast, teacher, dreams(0), dreams(1), make_trainer(tmp_path))
    ((maker, old, new),) = calls
    assert torch.equal(old, dreams(0).images) and torch.equal(new[:10], dreams(1).images)
    assert len(new) == 13 and not (new[10:].flatten(1) == 1).all(1).any()  # three training images
    assert (maker.slow, maker.fast, maker.teacher, maker.num_old) == (slow, fast, teacher, 11)
    assert maker.old_kl.__func__ is Segmentation.old_kl


def test_old_heads_of_a_classifier_do_not_see_the_new_one():
    teacher, logits = torch.randn(4, 2), torch.randn(4, 5)
    found = Classification().old_kl(teacher, logits, 2)
    torch.testing.assert_close(found, kl_divergence(teacher, logits[:, :2]))
    assert not torch.isclose(found, kl_divergence(teacher, logits[:, -2:]))


def test_running_statistics_after_the_fusion(stream, tmp_path):
    """Measured anew on the dreams with the fused weights, on request with training images."""
    task, model, teacher = second_task(stream)
    slow, fast = states(model)
    old, new = (dreams(0)._replace(images=torch.randn(10, 3, 64, 64)) for _ in range(2))

    def fused(statistics):
        learner = method(fusion="linear", alpha=0.5, fuse=FusionOptions(statistics=statistics))
        model.load_state_dict(fast)
        trainer = make_trainer(tmp_path / statistics)
        return part(learner._fuse(task, model, slow, fast, teacher, old, new, trainer), "state")

    plain, anew, with_images = (fused(kind) for kind in ("interpolate", "dreams", "dreams+images"))
    expected = linear(slow, fast, 0.5, ("classifiers.1.",))
    assert all(torch.equal(plain[name], value) for name, value in expected.items())
    model.load_state_dict(expected)
    reestimate_batch_norm(model, torch.cat([old.images, new.images]).split(8))
    assert all(torch.equal(anew[name], value) for name, value in model.state_dict().items())
    means = [name for name in plain if name.endswith("running_mean")]
    assert means and not any(torch.equal(anew[name], plain[name]) for name in means)
    assert not any(torch.equal(anew[name], with_images[name]) for name in means)


# ---------------------------------------------------------------- statistics


def network(logits, *sizes):
    """Answers every image with these logits; `sizes`: channels of its classifiers."""

    class Network:
        classifiers = tuple(SimpleNamespace(out_channels=size) for size in sizes)

        def __call__(self, _):
            return SimpleNamespace(logits=logits)

    return Network()


def test_background_that_the_model_takes_for_an_old_class():
    """Labels of a later task say background where an earlier class is seen, so the model's answer counts there."""
    logits = torch.tensor([[0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])  # by pixel
    logits = logits.T.reshape(1, 3, 2, 2)
    labels = torch.tensor([[[0, 0], [2, 255]]], dtype=torch.uint8)
    meant = torch.tensor([[[1, 0], [2, 255]]])  # old class; the new class is no excuse; new; void
    found = _label_loss(network(logits, 2, 1), None, labels)
    expected = F.cross_entropy(logits, meant, ignore_index=255, reduction="sum") / 4  # void counts in the mean
    torch.testing.assert_close(found, expected)


def test_losses_without_labels():
    torch.manual_seed(0)
    probabilities = torch.tensor([0.5, *[0.025] * 20])  # with two classes noise of the wrong sign would do as well
    logits = probabilities.log().view(1, 21, 1, 1).expand(1, 21, 200, 200)
    sampled = _sampled_loss(network(logits), None, torch.zeros(1, 200, 200, dtype=torch.uint8))
    entropy = -(probabilities * probabilities.log()).sum()  # what labels drawn from the prediction cost on average
    torch.testing.assert_close(sampled, entropy, atol=0.03, rtol=0)
    squared = _logit_loss(network(torch.tensor([1.0, -3.0]).view(1, 2, 1, 1)), None, None)
    assert squared.item() == pytest.approx(0.5 * (1 + 9))


@pytest.mark.parametrize(
    ("name", "loss"), [("labels", _label_loss), ("sampled", _sampled_loss), ("logits", _logit_loss)]
)
def test_options_of_the_statistics(name, loss, stream, tmp_path, monkeypatch):
    _, model, _ = second_task(stream)
    given = []

    def collect(self, network, batches, loss, group):
        given.append((network, len(list(batches)), loss, group))

    monkeypatch.setattr(GradientStatistics, "collect", collect)
    options = StatisticsOptions(loss=name, group="sample", batches=2)
    method(projector="tpnsp", statistics=options)._measure(stream.task(0), model, make_trainer(tmp_path))
    assert given == [(model, 2, loss, "sample")]


def features(seed):
    """Statistics of one linear layer."""
    statistics, layer = GradientStatistics(), nn.Linear(3, 2, bias=False)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(seed)) * seed
    statistics.collect_features(layer, [(inputs, None)])
    return statistics


def a_map(channel):
    layouts = LayoutStatistics()
    layouts.update(torch.full((2, 8, 8), channel, dtype=torch.uint8), channel + 1)
    return layouts


def test_statistics_of_all_tasks_are_kept(stream):
    """Each task weighs the same in the projector, and a new process goes on with what the last one had."""
    learner, task = method(projector="tpnsp"), stream.task(1)
    for seed in (1, 2):
        kept = {"statistics": prefixed(gradients=features(seed).tensors()), "layouts": a_map(seed).tensors()}
        kept |= {"features": {"sums": torch.full((seed, 3, 3), float(seed))}}
        trainer = SimpleNamespace(once=lambda name, _, kept=kept: kept[name], kind=Segmentation())
        learner.finish(task, None, trainer)
    expected = sum(m / m.trace() for m in (features(seed).grams["weight"][0].matrix for seed in (1, 2)))
    torch.testing.assert_close(learner.statistics.grams["weight"][0].matrix, expected)
    assert learner.layouts.company.diagonal().tolist() == [0, 2, 2]
    assert learner.alignment.moments.counts.tolist() == [3, 2]
    again = method(projector="tpnsp")
    again.load_tensors(learner.tensors())
    found = again.tensors()
    assert found.keys() == learner.tensors().keys()
    assert all(torch.equal(found[name], value) for name, value in learner.tensors().items())


def test_statistics_are_sums_over_all_processes(stream, monkeypatch):
    """Two processes that have seen the same: twice what one has."""
    task, layer, learner = stream.task(1), nn.Conv2d(3, 4, 1), method(projector="nsp")
    batch = torch.randn(2, 3, 8, 8), torch.full((2, 8, 8), 3, dtype=torch.uint8)
    monkeypatch.setattr(METHOD, "looked_at", lambda *_: [batch, batch])

    def measured(world):
        processes = SimpleNamespace(world=world, rank=0, sum=lambda tensor: world * tensor)
        trainer = SimpleNamespace(processes=processes)
        return learner._measure(task, layer, trainer) | learner._count_layouts(task, layer, trainer)

    one, two = measured(1), measured(2)
    assert one["gradients.weight|0|matrix"].any() and one["company"][3, 3] == 4
    for name in ("gradients.weight|0|matrix", "company", "areas", "places"):
        torch.testing.assert_close(two[name], 2 * one[name])
    assert two["gradients.weight|size"][0] == 2 * one["gradients.weight|size"][0]
