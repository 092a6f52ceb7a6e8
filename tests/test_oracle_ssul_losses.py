"""Targets, pseudo labels, loss, start and decision of SSUL against its official implementation."""

from types import SimpleNamespace

import torch
from oracle_archive import Archive, assert_close, differs, resized
from torch import nn

from css.model.output import Output
from plop_baseline.private_heads import all_rows_bce, body, sure_labels
from plop_baseline.ssul import Ssul, SsulOptions
from plop_baseline.unknown_class import KnownAndUnknown, known_or_unknown, start_as, with_unknown

ARCHIVE = Archive("ssul_losses")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number


def has_unknown(case):
    return bool(number(case, "unknown"))


def head(width, rows):
    return nn.Sequential(*body(width), nn.Conv2d(width, rows, 1)).double().eval()


def heads(case, which):
    """All heads of the previous model, or of the current one."""
    rows, width = array(case, "rows_per_head").tolist(), array(case, "features").shape[1]
    previous, state = ARCHIVE.group(case, "previous"), ARCHIVE.group(case, which)
    if which == "previous":
        rows, previous = rows[:-1], {}
    found = nn.ModuleList(head(width, number) for number in rows)
    found.load_state_dict(previous | state, strict=False)
    return found


def logits(modules, features):
    return torch.cat([head(features) for head in modules], 1)


def targets(case):
    labels = array(case, "labels")
    return with_unknown(labels, array(case, "saliency")) if has_unknown(case) else labels


def pseudo_labels(case):
    size = array(case, "labels").shape[-2:]
    old = resized(logits(heads(case, "previous"), array(case, "features")), size)
    return sure_labels(old, targets(case), number(case, "threshold"), 2 if has_unknown(case) else 1)


def computed(case, labels):
    modules = heads(case, "model")
    small = logits(modules, array(case, "features"))
    small.retain_grad()
    loss = all_rows_bce(resized(small, labels.shape[-2:]), labels)
    return SimpleNamespace(modules=modules, small=small, loss=loss)


@CASES
def test_targets(case):
    assert torch.equal(targets(case), array(case, "labels_unknown"))
    assert torch.equal(pseudo_labels(case), array(case, "pseudo_labels"))


@CASES
def test_logits(case):
    features = array(case, "features")
    assert_close(logits(heads(case, "model"), features), array(case, "logits_small"))
    assert_close(logits(heads(case, "previous"), features), array(case, "logits_small_previous"))


@CASES
def test_loss_and_gradients(case):
    found = computed(case, pseudo_labels(case))
    assert_close(found.loss, number(case, "loss"))
    valid = (pseudo_labels(case) != 255).sum()
    assert_close(found.loss * valid, number(case, "loss_sum"))
    found.loss.backward()
    assert_close(found.small.grad, array(case, "grad_logits_small"))
    parameters = dict(found.modules.named_parameters())
    for name, gradient in ARCHIVE.group(case, "grad").items():
        assert_close(parameters[name].grad, gradient)
    assert_close(computed(case, targets(case)).loss, number(case, "loss_without_pseudo"))


@CASES
def test_what_learns(case):
    """The newest head, and those of unknown and background; their convolutions alone."""
    modules = heads(case, "model")
    learning = {0, 1, len(modules) - 1} if has_unknown(case) else {len(modules) - 1}
    names = {name for name, _ in modules.named_parameters() if int(name.split(".")[0]) in learning}
    names = {name for name in names if name.split(".")[1] != "1"}
    assert names == set(ARCHIVE.arrays[f"case{case}_trainable"].tolist())


@CASES
def test_start(case):
    unknown, expected = ARCHIVE.group(case, "init_unknown"), ARCHIVE.group(case, "init_new")
    if not has_unknown(case):
        assert not expected
        return
    width, rows = expected["3.weight"].shape[1], expected["3.weight"].shape[0]
    old, new = head(width, 1), head(width, rows)
    old.load_state_dict(unknown, strict=False)
    start_as(new, old)
    for name, value in expected.items():
        assert torch.equal(new.state_dict()[name], value)


@CASES
def test_decision(case):
    """The sum of two probabilities may exceed 1, and then always wins."""
    rows = array(case, "rule_logits")
    found = known_or_unknown(rows) if has_unknown(case) else rows
    assert torch.equal(found.argmax(1), array(case, "rule_prediction").long())
    if has_unknown(case):
        score = array(case, "rule_background_score")
        assert_close(found[:, 0].sigmoid(), score.clamp(max=1), 1e-6)
        assert (score > 1).any()
        assert not torch.equal(rows[:, 1:].argmax(1), found.argmax(1))


class Net(nn.Module):
    """The maps of the ASPP as they are given, and the heads that the method looks into."""

    def __init__(self, case, which):
        super().__init__()
        unknown, background, first, *later = heads(case, which)
        self.decoder = SimpleNamespace(conv=first[0], bn=first[1], relu=first[2])
        self.head = KnownAndUnknown()
        self.head.unknown, self.head.background = unknown, background
        self.head.bodies = nn.ModuleList(of[:3] for of in later)
        self.classifiers = nn.ModuleList([with_background_row(first[3]), *(of[3] for of in later)])
        self.features = array(case, "features")

    def forward(self, images):
        return Output(torch.zeros(0), self.features, ())


def with_background_row(classifier):
    """Of a soft-max: the same added to all rows changes nothing."""
    added, found = torch.rand(1, classifier.in_channels, 1, 1).double(), nn.Conv2d(classifier.in_channels, 1, 1)
    found.weight = nn.Parameter(torch.cat([added, classifier.weight.detach() + added]))
    found.bias = nn.Parameter(torch.cat([torch.full((1,), 0.25), classifier.bias.detach() + 0.25]))
    return found.double()


@CASES
def test_method(case):
    """What `Ssul.losses` gives with saliency maps; a negative control without the pseudo labels."""
    if not has_unknown(case):
        return
    for threshold, expected in ((number(case, "threshold"), "loss"), (1.1, "loss_without_pseudo")):
        method = Ssul(SsulOptions(threshold=threshold, unknown="maps"))
        method.model = Net(case, "model")
        found = method.losses(None, method.model, Net(case, "previous"), None, targets(case))
        assert_close(found["bce"], number(case, expected))
    assert differs(found["bce"], number(case, "loss"))


@CASES
def test_plausible_mistakes_fail(case):
    """Void counted in the mean; rows averaged; pseudo labels over void."""
    labels = pseudo_labels(case)
    found = computed(case, labels)
    assert differs(found.loss * (labels != 255).sum() / labels.numel(), number(case, "loss"))
    assert differs(found.loss / found.small.shape[1], number(case, "loss"))
    assert differs(computed(case, labels.where(labels != 255, torch.zeros_like(labels))).loss, number(case, "loss"))


def test_void_alone():
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    loss = all_rows_bce(logits, torch.full((1, 2, 2), 255))
    loss.backward()
    assert loss == 0 and not logits.grad.any()
