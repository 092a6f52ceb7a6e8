"""`--method hypercolumn` and `--model.classifier-features hypercolumn`, called as a user does."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_voc import QUICK_S2MF, Killed, css, kill_at, read_results, run_arguments

from css.kinds.choice import kind_of
from css.model.encoders import build_encoder
from css.model.state import classifiers_of
from css.run.saved import load_model, open_run
from css.system.processes import Processes
from css.system.tensors import load_tensors

METHOD = ["--method", "hypercolumn"]
SEEING = ["--model.classifier-features", "hypercolumn"]


@pytest.fixture(scope="module", autouse=True)
def _short():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("css.model.hypercolumn.COMPONENTS", 32)
        patch.setattr("css.s2mf.hypercolumns.COMPONENTS", 32)
        yield


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    outcome = css(*run_arguments(data, folder, "run", *METHOD))
    assert outcome.code == 0, outcome.err
    return folder / "run"


@pytest.fixture(scope="module")
def plain(data, run):
    """A run whose classifiers see the decoder's features."""
    outcome = css(*run_arguments(data, run.parent, "plain", "--method", "finetune"))
    assert outcome.code == 0, outcome.err
    return run.parent / "plain"


def tensors_of(run, task):
    return load_tensors(run / f"task_{task}" / "model.safetensors")[0]


def test_only_classifiers_change_after_the_first_task(run):
    for task in (1, 2):
        before, after = tensors_of(run, task - 1), tensors_of(run, task)
        for name in (name for name in before if name.startswith("model.")):
            changes = name.startswith(("model.classifiers.", "model.hidden."))
            assert torch.equal(before[name], after[name]) != changes, name
        assert after["method.sums"].shape == (2 + task, 33 * 34 / 2)
        assert after[f"model.classifiers.{task}.weight"].shape == (1, 32 + 256, 1, 1)
        assert after["model.hidden.weight"].shape == (256, 32, 1, 1)


def test_no_epochs(run):
    tasks = read_results(run)["tasks"]
    assert tasks[0]["history"] and not tasks[1]["history"] and not tasks[2]["history"]
    assert {"directions", "first classifier", "features"} <= tasks[0]["seconds"].keys()
    assert {"alignment", "features"} <= tasks[1]["seconds"].keys()


def test_the_first_task_is_that_of_any_method(run, plain, data):
    """The network is trained alike; the directions and the classifier are fitted when the first task is borrowed."""
    mine, theirs = tensors_of(run, 0), tensors_of(plain, 0)
    assert all(torch.equal(mine[name], value) for name, value in theirs.items() if "classifiers" not in name)
    assert css(*run_arguments(data, run.parent, "borrowed", *METHOD, "--task0", plain)).code == 0
    borrowed = tensors_of(run.parent / "borrowed", 2)
    assert all(torch.equal(borrowed[name], value) for name, value in tensors_of(run, 2).items())


@pytest.mark.parametrize(
    ("function", "calls"),
    [
        ("css.s2mf.hypercolumns.fit_directions", 1),
        ("css.s2mf.hypercolumns.train", 1),
        ("css.s2mf.alignment.aligned", 2),
        ("css.s2mf.moments.FeatureMoments.update", 8),
    ],
)
def test_killed(function, calls, run, plain, data, tmp_path, monkeypatch):
    """While directions and first classifier are fitted, in the second alignment, and while features are counted."""
    again = run_arguments(data, tmp_path, "run", *METHOD, "--task0", plain)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(function, kill_at(function, calls))
        css(*again)
    assert css(*again).code == 0
    for task in (0, 1, 2):
        expected, found = tensors_of(run, task), tensors_of(tmp_path / "run", task)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("method", ["frozen+align", "plop", "plop+s2mf"])
def test_any_method_can_see_hypercolumns(method, run, data):
    """The directions stay, also where the network is trained or fused."""
    options = [*QUICK_S2MF[:-1], "--options.projector", "all"] if method == "plop+s2mf" else []
    outcome = css(*run_arguments(data, run.parent, method, "--method", method, *SEEING, *options, "--task0", run))
    assert outcome.code == 0, outcome.err
    before, after = tensors_of(run, 0), tensors_of(run.parent / method, 2)
    assert after["model.classifiers.2.weight"].shape == (1, 32, 1, 1)
    directions = [name for name in before if name.startswith("model.hypercolumn.")]
    assert len(directions) == 5 and all(torch.equal(before[name], after[name]) for name in directions)
    trained = "model.decoder.conv.weight"
    assert torch.equal(before[trained], after[trained]) == (method == "frozen+align")


def old_answers(run, data, task):
    """What the model after a task answers among the classes of the first task, on test images of the first one."""
    config, stream = open_run(run, data)
    model = load_model(run, config, task, Processes()).eval()
    images = stream.task(0).test(kind_of("voc").test_view(config))
    pixels = torch.stack([images[place, 0][0] for place in range(len(images))])
    with torch.no_grad():
        return model(model.normalise(pixels)).logits[:, :2]


def test_old_answers_barely_change(run, plain, data):
    def moved(run):
        before, after = old_answers(run, data, 0), old_answers(run, data, 2)
        return (before.softmax(1) - after.softmax(1)).abs().mean().item()

    print(moved(run), moved(plain))
    assert moved(run) < 0.07 < 0.14 < moved(plain)


def test_a_finished_run_is_tested_again(run):
    outcome = css("evaluate", run, "--task", 2)
    assert outcome.code == 0, outcome.err


def test_a_first_task_of_hypercolumns_is_shared_with_methods_on_the_decoder(run, plain, data):
    """With the classifier that the network was trained with."""
    outcome = css(*run_arguments(data, run.parent, "back", "--method", "finetune", "--task0", run))
    assert outcome.code == 0, outcome.err
    for task in (0, 2):
        found = tensors_of(run.parent / "back", task)
        assert all(torch.equal(found[name], value) for name, value in tensors_of(plain, task).items())


PRETRAINED = ["--model.classifier-features", "hypercolumn+pretrained", "--model.encoder-weights"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of an encoder, other ones than those of a fresh network."""
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    torch.manual_seed(5)
    save_file(build_encoder("tu-test_resnet").state_dict(), path)
    return path


def test_a_pretrained_encoder_is_kept(data, weights, tmp_path):
    """The first task is shared with a run without it; the kept one has the weights of the file, in all tasks."""
    arguments = ["--model.encoder-weights", weights, *METHOD]
    assert css(*run_arguments(data, tmp_path, "own", *arguments)).code == 0
    again = run_arguments(data, tmp_path, "both", *PRETRAINED, weights, *METHOD, "--task0", tmp_path / "own")
    assert css(*again).code == 0
    found, own = tensors_of(tmp_path / "both", 2), tensors_of(tmp_path / "own", 2)
    for name, value in load_file(weights).items():
        assert torch.equal(found[f"model.pretrained.{name}"], value)
        assert torch.equal(found[f"model.encoder.{name}"], own[f"model.encoder.{name}"])
    trained = [not torch.equal(value, found[f"model.encoder.{name}"]) for name, value in load_file(weights).items()]
    assert sum(trained) > 10
    assert len(found["model.hypercolumn.scale"]) == 2 * len(own["model.hypercolumn.scale"]) - 256
    assert css("evaluate", tmp_path / "both", "--task", 2).code == 0
    back = run_arguments(data, tmp_path, "back", *arguments, "--task0", tmp_path / "both")
    assert css(*back).code == 0
    assert all(torch.equal(tensors_of(tmp_path / "back", 2)[name], value) for name, value in own.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "plop"], "is for hypercolumn and frozen features, not for --method plop"),
        ([*METHOD, "--model.encoder-weights", "none"], "needs a pretrained encoder"),
    ],
)
def test_where_no_pretrained_encoder_can_be_kept(options, words, data, weights, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "other", *PRETRAINED, weights, *options))
    assert outcome.code == 2 and words in outcome.complaint
    assert not (tmp_path / "other").exists()


def test_the_first_classifier_goes_half_the_way(data, tmp_path, monkeypatch):
    """From the network's own answers to those of the training on all stages."""

    def trained(start, _):
        return start._replace(weight=start.weight + 2, bias=start.bias - 4)

    monkeypatch.setattr("css.s2mf.hypercolumns.train", trained)
    assert css(*run_arguments(data, tmp_path, "half", *METHOD, protocol="3-0")).code == 0
    config, _ = open_run(tmp_path / "half", None)
    model = load_model(tmp_path / "half", config, 0, Processes())
    found, (weight, bias) = classifiers_of(model), model.hypercolumn.own_classifier()
    torch.testing.assert_close(found.weight[:, :32], weight + 1)
    torch.testing.assert_close(found.weight[:, 32:], torch.ones(4, 256))
    torch.testing.assert_close(found.bias, bias - 2)


def test_without_a_hidden_layer(run, data):
    """Classifiers are linear; that a first task was taken from a run that has one does not matter."""
    linear = [*METHOD, "--model.classifier-hidden", "0"]
    for name, options in {"linear": [], "linear borrowed": ["--task0", run]}.items():
        assert css(*run_arguments(data, run.parent, name, *linear, *options)).code == 0
    one, other = (tensors_of(run.parent / name, 2) for name in ("linear", "linear borrowed"))
    assert "model.hidden.weight" not in one and one["model.classifiers.2.weight"].shape == (1, 32, 1, 1)
    assert all(torch.equal(other[name], value) for name, value in one.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([*METHOD, "--model.classifier-hidden", "-1"], "--model.classifier-hidden -1 does not fit"),
        (["--method", "plop", "--model.classifier-hidden", "8"], "needs --model.classifier-features hypercolumn"),
    ],
)
def test_no_hidden_layer_is_refused(options, words, data, tmp_path):
    outcome = css(*run_arguments(data, tmp_path, "other", *options))
    assert outcome.code == 2 and words in outcome.complaint


def test_too_few_places(data, tmp_path, monkeypatch):
    monkeypatch.setattr("css.s2mf.hypercolumns.COMPONENTS", 200)
    outcome = css(*run_arguments(data, tmp_path, "other", *METHOD, "--train.crop", "32", "--train.batch", "4"))
    assert outcome.code == 2 and "too few for 200 numbers per place" in outcome.complaint
    assert not (tmp_path / "other").exists()


def test_a_run_on_the_decoder_does_not_go_on_with_hypercolumns(plain, data):
    outcome = css(*run_arguments(data, plain.parent, "plain", "--method", "finetune", *SEEING))
    assert (
        outcome.code == 2 and "model.classifier_features is 'hypercolumn' here and 'decoder' there" in outcome.complaint
    )


def test_image_labels_have_no_columns(tmp_path):
    outcome = css("run", "shapes-cls", "5-split", "--method", "finetune", *SEEING, "--runs", tmp_path / "runs")
    assert outcome.code == 2 and "is for label maps" in outcome.complaint


@pytest.mark.parametrize("name", ["run", "plain"])
def test_upper_bounds(name, run, plain, data, monkeypatch):
    """Of a network that sees hypercolumns and of one that does not; the run itself is not touched."""
    monkeypatch.setattr("css.analysis.bounds.STEPS", 20)
    home = run.parent / name
    before = tensors_of(home, 2)
    outcome = css("analyse", home, "--bounds")
    assert outcome.code == 0, outcome.err
    found = json.loads((home / "analysis" / "bounds.json").read_text())
    assert list(found) == ["decoder, linear", "decoder, MLP", "hypercolumn, linear", "hypercolumn, MLP"]
    for features, scores in found.items():
        assert 0 < scores["all"] < 1 and f"| {features} " in outcome.out
    assert all(torch.equal(value, before[name]) for name, value in tensors_of(home, 2).items())


def test_no_bounds_of_an_unfinished_run(run, data, tmp_path, monkeypatch):
    again = run_arguments(data, tmp_path, "run", *METHOD, "--task0", run)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("css.s2mf.alignment.aligned", kill_at("css.s2mf.alignment.aligned", 1))
        css(*again)
    outcome = css("analyse", tmp_path / "run", "--bounds")
    assert outcome.code == 2 and "is not finished" in outcome.complaint
