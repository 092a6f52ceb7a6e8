"""`css analyse`: numbers on hand-made networks, then the command on a small run."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from small_voc import css, run_arguments
from torch import nn

from css.analysis.draw import _path
from css.analysis.landscape import plane_through
from css.analysis.measure import compare, gate_shares, make_models, measure, recognised
from css.analysis.task import Analysis


class Pixelwise(nn.Module):
    """Logits that are parameters, the same for every pixel: background, an old class, a new one."""

    def __init__(self, logits):
        super().__init__()
        self.classes = [0, 1, 2]
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.classifiers = nn.ModuleList([nn.Conv2d(3, 2, 1), nn.Conv2d(3, 1, 1)])
        with torch.no_grad():
            for classifier, bias in zip(self.classifiers, (logits[:2], logits[2:]), strict=True):
                classifier.weight.zero_()
                classifier.bias.copy_(torch.tensor(bias))

    def forward(self, images):
        x = self.norm(images)
        return SimpleNamespace(logits=torch.cat([classifier(x) for classifier in self.classifiers], 1))


def state_of(*logits):
    return {name: value.clone() for name, value in Pixelwise(list(logits)).state_dict().items()}


@pytest.fixture
def models():
    old = {name: value for name, value in state_of(2.0, 0.0, 0.0).items() if not name.startswith("classifiers.1")}
    slow, fast, fused = state_of(1.0, 0.0, 0.0), state_of(0.0, 0.0, 3.0), state_of(1.0, 0.0, 1.0)
    assert len(old) < len(fast)
    return make_models(Pixelwise([0.0, 0.0, 0.0]), old, slow, fast, fused, 1)


# Two images of 1 x 2 pixels: background, old class; new class, void.
BATCHES = [(torch.zeros(2, 3, 1, 2), torch.tensor([[[0, 1]], [[2, 255]]], dtype=torch.uint8))]


def cross_entropy(logits, label):
    return math.log(sum(map(math.exp, logits))) - logits[label]


def test_losses_are_those_of_old_and_of_new_pixels(models):
    found = measure(models, models.fast, BATCHES)
    logits = [0.0, 0.0, 3.0]
    assert found["old_loss"] == pytest.approx((cross_entropy(logits, 0) + cross_entropy(logits, 1)) / 2)
    assert found["new_loss"] == pytest.approx(cross_entropy(logits, 2))
    # everything is answered with the new class: IoU 0, 0 and 1/3
    assert (found["old"], found["new"]) == (0.0, pytest.approx(1 / 3, abs=1e-5))


def test_autocast_does_not_go_on_with_the_weights_of_another_model(models):
    alone = [measure(models, state, BATCHES) for state in (models.slow, models.fast)]
    with torch.autocast("cpu", torch.bfloat16):
        together = [measure(models, state, BATCHES) for state in (models.slow, models.fast)]
    for expected, found in zip(alone, together, strict=True):
        assert found["new_loss"] == pytest.approx(expected["new_loss"], rel=0.02)


def test_without_a_new_pixel_there_is_no_new_loss(models):
    images, labels = BATCHES[0]
    found = measure(models, models.slow, [(images[:1], labels[:1])])
    assert found["new_loss"] is None and found["new"] is None and found["old_loss"] is not None


def test_old_model_answers_with_its_own_classes_alone(models):
    """Its loss is that of its own soft-max over two channels; over three it would be larger."""
    found = measure(models, models.old, BATCHES)
    expected = (cross_entropy([2.0, 0.0], 0) + cross_entropy([2.0, 0.0], 1)) / 2
    assert found["old_loss"] == pytest.approx(expected, abs=1e-4)
    assert found["old_loss"] < measure(models, models.old | {"classifiers.1.bias": torch.zeros(1)}, BATCHES)["old_loss"]


def test_path_ends_at_fast_and_slow_and_keeps_the_new_classifier(models):
    found = compare(models, BATCHES)
    first, last = found["path"][0], found["path"][-1]
    assert {**first, "alpha": None} == {**found["models"]["fast"], "alpha": None}
    # at alpha 1 the old classifier is the slow model's, the new one still the fast model's
    assert last["old_loss"] == pytest.approx((cross_entropy([1.0, 0, 3], 0) + cross_entropy([1.0, 0, 3], 1)) / 2)
    means = [point["all"] for point in found["path"]]
    assert found["best_linear"] == found["path"][means.index(max(means))]


def test_increase_at_fusion_is_against_the_model_that_knows(models):
    found = compare(models, BATCHES)
    scores, increase = found["models"], found["increase"]["fused"]
    assert increase["old"] == pytest.approx(scores["fused"]["old_loss"] - scores["old"]["old_loss"])
    assert increase["new"] == pytest.approx(scores["fused"]["new_loss"] - scores["fast"]["new_loss"])
    swapped = models._replace(slow=models.fast, fast=models.slow)  # must be noticed
    assert compare(swapped, BATCHES)["increase"]["fused"]["new"] != pytest.approx(increase["new"])


def test_coordinates_come_back_and_batch_norm_moves_along():
    torch.manual_seed(0)
    models = [{"a": torch.randn(4, 3), "b.running_var": torch.rand(5) + 1, "classifiers.1.bias": torch.randn(1)}
              for _ in range(3)]  # fmt: skip
    origin, second, third = models
    plane = plane_through(*models, without="classifiers.1.")
    for model, expected in zip(models, (0.0, None, None), strict=True):
        x, y, distance = plane.coordinates(model)
        assert distance < 1e-5
        back = plane.at(x, y, third)
        for name in ("a", "b.running_var"):
            torch.testing.assert_close(back[name], model[name])
        assert torch.equal(back["classifiers.1.bias"], third["classifiers.1.bias"])
        assert expected is None or (x, y) == (expected, expected)
    x, y, _ = plane.coordinates(second)
    length = (second["a"] - origin["a"]).norm().item()  # statistics move along, but are no distance
    assert (x, y) == (pytest.approx(length, rel=1e-5), pytest.approx(0, abs=1e-5))
    outside = {**second, "a": second["a"] + 1}
    assert plane.coordinates(outside)[2] > 0.1  # the distance tells what the plane has not


def test_variances_stay_positive_beyond_the_models():
    models = [{"a": torch.tensor(place), "b.running_var": torch.tensor(values)} for place, values in (
        ([0.0, 0.0], [1.0, 1.0]), ([1.0, 0.0], [0.5, 1.0]), ([0.0, 1.0], [1.0, 0.5]),
    )]  # fmt: skip
    assert (plane_through(*models, without="x").at(100.0, 100.0, {})["b.running_var"] > 0).all()


def test_a_slow_model_that_stayed_where_it_was_spans_no_plane():
    """Its bias of the background has moved when the classifier was added."""
    origin = {"a": torch.tensor([0.0, 0.0]), "classifiers.0.bias": torch.tensor(0.0)}
    stayed, moved = {**origin, "classifiers.0.bias": torch.tensor(-0.7)}, {**origin, "a": torch.tensor([1.0, 0.0])}
    with pytest.raises(ValueError, match="one line"):
        plane_through(origin, stayed, moved, without="x")


def test_models_on_a_line_span_no_plane():
    models = [{"a": torch.tensor([value, 0.0])} for value in (0.0, 1.0, 2.0)]
    with pytest.raises(ValueError, match="one line"):
        plane_through(*models, without="x")


def test_gates_are_listed_in_the_order_of_the_network():
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    shares = gate_shares({"1": torch.tensor([0.0, 0.5, 1.0]), "0": torch.tensor([0.25])}, model)
    assert [share["layer"] for share in shares] == ["0", "1"]
    assert shares[1]["mean"] == 0.5 and shares[1]["quartiles"] == [0.25, 0.5, 0.75]


def test_recognised_counts_queried_pixels_of_each_class():
    queries = torch.tensor([[[0, 1, 1, 255]], [[0, 0, 0, 2]]], dtype=torch.uint8)
    answers = torch.tensor([[[0, 1, 2, 1]], [[0, 0, 1, 2]]])
    found = recognised(answers, queries, range(1, 4))
    assert found["classes"] == {1: 0.5, 2: 1.0, 3: None}
    assert found["all"] == pytest.approx(5 / 7) and found["chance"] == pytest.approx(4 / 7)


@pytest.fixture(autouse=True, scope="module")
def coarse_landscape():
    """Nine networks instead of 81."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("css.analysis.landscape.POINTS", 3)
        yield


@pytest.fixture(scope="module")
def runs(data, fused_runs, tmp_path_factory):
    """A copy, which the command writes into."""
    return shutil.copytree(fused_runs, tmp_path_factory.mktemp("copy") / "runs")


def test_command_writes_pictures_and_numbers(runs, data):
    outcome = css("analyse", runs / "meta", runs / "old", "--images", "6", "--recogniser", runs / "old")
    assert outcome.code == 0, outcome.err
    for run in ("meta", "old"):
        found = json.loads((runs / run / "analysis" / "task_1.json").read_text())
        aligned = {"aligned"} if run == "meta" else set()
        assert set(found["models"]) == {"old", "slow", "fast", "fused", "fused_real"} | aligned
        for picture in ("path", "landscape", "gates", "dreams-old", "dreams-new", "story"):
            assert (runs / run / "analysis" / f"task_1-{picture}.png").stat().st_size > 500
        for dreams, classes in (("old", {"1", "2"}), ("new", {"3"})):
            assert set(found["dreams"][dreams]) == {"teacher", "fused", "judge"}
            assert set(found["dreams"][dreams]["judge"]["classes"]) == classes
        x, y, distance = found["landscape"]["points"]["old"]
        assert (x, y, distance) == (0, 0, 0)
        assert all(np.shape(losses) == (3, 3) for losses in found["landscape"]["losses"].values())
    assert (runs / "meta" / "analysis" / "increase.png").exists()
    assert not (runs / "old" / "analysis" / "increase.png").exists()
    assert all(
        row in outcome.out
        for row in ("| fused ", "| fused, classifiers aligned", "| gates on real images", "| best mean")
    )


@pytest.mark.parametrize("aligned", [False, True])
def test_path_shows_what_fusion_and_alignment_reach(aligned):
    """A line for each loss that there is."""
    models = {"fused": {"old_loss": 0.3, "new_loss": None}}
    if aligned:
        models["aligned"] = {"old_loss": 0.2, "new_loss": 0.6}
    path = [{"alpha": alpha, "old_loss": 1 - alpha, "new_loss": alpha} for alpha in (0.0, 1.0)]
    axes = Figure().subplots()
    _path(axes, {"models": models, "path": path})
    level = {line.get_label(): line.get_ydata()[0] for line in axes.lines if line.get_marker() == "None"}
    expected = {"old classes, fused": 0.3}
    if aligned:
        expected |= {"old classes, fused, classifiers aligned": 0.2, "new classes, fused, classifiers aligned": 0.6}
    assert level == expected


def test_no_real_image_shows_old_classes_alone():
    """Then there is nothing to learn gates from, and the table does without that row."""
    analysis = Analysis.__new__(Analysis)
    source = SimpleNamespace(presence=lambda split: np.ones((3, 256), bool))
    analysis.task = SimpleNamespace(old_classes=[0, 1], new_classes=[2], source=source)
    assert analysis._fused_on_real_images() is None


@pytest.fixture
def undrawn(monkeypatch):
    """The pictures have their own test."""
    monkeypatch.setattr(Analysis, "_draw", lambda *_: None)
    monkeypatch.setattr("css.analysis.task.draw_dreams", lambda *_: None)


@pytest.mark.usefixtures("undrawn")
def test_aligned_model_of_the_table_is_the_stored_one(runs):
    """The same images as `css evaluate` sees, so the same mIoU."""
    outcome = css("analyse", runs / "meta", "--images", "1000")
    assert outcome.code == 0, outcome.err
    found = json.loads((runs / "meta" / "analysis" / "task_1.json").read_text())
    stored = json.loads((runs / "meta" / "results.json").read_text())["tasks"][1]["groups"]
    assert found["models"]["aligned"]["all"] == pytest.approx(stored["all"], abs=1e-9)
    assert found["models"]["slow"] != found["models"]["fused"] != found["models"]["aligned"]


@pytest.mark.usefixtures("undrawn")
def test_fused_model_of_the_table_is_the_gated_mean(runs):
    """Of a run whose classifiers were not aligned it is the stored one."""
    assert css("analyse", runs / "old", "--images", "1000").code == 0
    found = json.loads((runs / "old" / "analysis" / "task_1.json").read_text())["models"]
    stored = json.loads((runs / "old" / "results.json").read_text())["tasks"][1]["groups"]
    assert found["fused"]["all"] == pytest.approx(stored["all"], abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "0"], "BASE+s2mf"),
        (["--task", "5"], "--task 5 is not finished"),
        (["--images", "0"], "--images"),
        (["--recogniser", "short"], "has not learnt"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, runs, data):
    if "short" in arguments:  # a run that has learnt the first task only
        short = runs / "short"
        options = ["--method", "finetune", "--task0", runs / "meta", "--train.later-epochs", "2"]
        css(*run_arguments(data, runs, "short", *options, protocol="2-1"))
        results = json.loads((short / "results.json").read_text())
        (short / "results.json").write_text(json.dumps(results | {"tasks": results["tasks"][:1], "complete": False}))
        arguments = ["--recogniser", short]
    outcome = css("analyse", runs / "meta", *arguments)
    assert outcome.code == 2 and words in outcome.complaint
