"""Losses, unified background and decision of BARM against its official implementation."""

from types import SimpleNamespace

import torch
from oracle_archive import Archive, assert_close, differs, resized
from torch import nn

from plop_baseline.private_heads import (
    adaptation_losses,
    all_rows_bce,
    body,
    body_distance,
    head_distillation,
    sure_labels,
    unified_background,
)
from plop_baseline.unknown_class import start_as

ARCHIVE = Archive("barm_losses")
CASES, array, number = ARCHIVE.cases, ARCHIVE.array, ARCHIVE.number
FACTORS = dict(zip(("background", "ear", "head", "new"), ARCHIVE.arrays["weights"].tolist(), strict=True))


class Model(nn.Module):
    """The official names of parameters."""

    def __init__(self, width, rows):
        super().__init__()
        self.head_pre = nn.Sequential(*body(width))
        self.ear = nn.ModuleList(nn.Sequential(*body(width)) for _ in rows[1:])
        self.head = nn.ModuleList(nn.Conv2d(width, number, 1) for number in rows)

    def forward(self, features):
        bodies = [of(features) for of in (self.head_pre, *self.ear)]
        return bodies, [head(maps) for head, maps in zip(self.head, bodies, strict=True)]


def model(case, which):
    """The previous model, or the current one, in evaluation mode."""
    classes = array(case, "classes").tolist()
    rows = [classes[0], *(of + 1 for of in classes[1:])]
    previous, state = ARCHIVE.group(case, "previous"), ARCHIVE.group(case, which)
    if which == "previous":
        rows, previous = rows[:-1], {}
    found = Model(array(case, "features_old").shape[1], rows).double().eval()
    found.load_state_dict(previous | state, strict=False)
    expected = {name for name in found.state_dict() if not name.endswith("num_batches_tracked")}
    assert expected == set(previous | state)
    return found


def computed(case):
    new, old = model(case, "model"), model(case, "previous")
    features, labels = array(case, "features_new").requires_grad_(), array(case, "labels")
    bodies, heads = new(features)
    with torch.no_grad():
        old_bodies, old_heads = old(array(case, "features_old"))
        teacher = unified_background(old_heads, training=False)
    size, stride = labels.shape[-2:], labels.shape[-1] // features.shape[-1]
    small = labels[:, ::stride, ::stride]
    pseudo = sure_labels(resized(teacher, size), labels, number(case, "threshold"))
    logits = unified_background(heads, training=True)
    terms = {"bce": all_rows_bce(resized(logits, size), pseudo)} | adaptation_losses(heads[-1][:, 0], small)
    terms["ear"] = body_distance(bodies[:-1], old_bodies, small == 0)
    terms["head"] = head_distillation(heads[:-1], old_heads)
    total = sum(FACTORS.get(name, 1.0) * term for name, term in terms.items())
    return SimpleNamespace(model=new, features=features, heads=heads, logits=logits, pseudo=pseudo, terms=terms,
                           total=total, size=size)  # fmt: skip


@CASES
def test_logits(case):
    found = computed(case)
    assert_close(found.logits, array(case, "logits_small"))
    assert_close(found.logits[:, 0], array(case, "background_logit"))


@CASES
def test_pseudo_labels(case):
    assert torch.equal(computed(case).pseudo, array(case, "pseudo_labels"))


def test_there_are_pseudo_labels():
    cases = range(int(ARCHIVE.arrays["n_cases"]))
    assert any(not torch.equal(array(case, "labels"), array(case, "pseudo_labels")) for case in cases)


@CASES
def test_terms(case):
    """Without background in a batch the released code divides 0 by 0."""
    terms = computed(case).terms
    names = {"bce": "loss_bce", "new": "loss_new_code", "ear": "loss_ear", "head": "loss_head",
             "background": "loss_background_meant"}  # fmt: skip
    for name, stored in names.items():
        assert_close(terms[name], number(case, stored))
    code = array(case, "loss_background_code")
    assert_close(terms["background"], code.nan_to_num())


@CASES
def test_total_and_gradients(case):
    found = computed(case)
    assert_close(found.total, number(case, "total_meant"))
    if not array(case, "total_code").isnan():
        assert_close(found.total, number(case, "total_code"))
    found.total.backward()
    assert_close(found.features.grad, array(case, "grad_features"))
    parameters = dict(found.model.named_parameters())
    for name, gradient in ARCHIVE.group(case, "grad").items():
        assert_close(parameters[name].grad, gradient)


@CASES
def test_decision(case):
    with torch.no_grad():
        _, heads = model(case, "model")(array(case, "features_new"))
    logits = unified_background(heads, training=False)
    assert_close(logits, array(case, "test_logits_small"))
    size = array(case, "labels").shape[-2:]
    assert torch.equal(resized(logits.sigmoid(), size).argmax(1), array(case, "test_prediction").long())
    assert torch.equal(resized(logits, size).argmax(1), array(case, "test_prediction_from_logits").long())


@CASES
def test_a_new_ear_is_a_copy(case):
    """The released code forgets the running statistics, and freezes what they are at the start."""
    meant, code = ARCHIVE.group(case, "init_ear_meant"), ARCHIVE.group(case, "init_ear_code")
    width = len(meant["1.weight"])
    first, new = (nn.Sequential(*body(width), nn.Conv2d(width, 1, 1)).double() for _ in range(2))
    first.load_state_dict(meant, strict=False)
    start_as(new, first)
    for name, value in meant.items():
        assert torch.equal(new.state_dict()[name], value)
    assert not code["1.running_mean"].any() and meant["1.running_mean"].any()


def test_nothing_but_void():
    change = torch.zeros(2, 3, 3, requires_grad=True)
    void = torch.full((2, 3, 3), 255)
    terms = adaptation_losses(change, void)
    loss = sum(terms.values()) + all_rows_bce(change[:, None], void)
    loss.backward()
    assert loss == 0 and not change.grad.any()


@CASES
def test_plausible_mistakes_fail(case):
    """The newest r cut at 0 while training; pseudo labels in the masks; the mean over background alone; no r in the
    heads."""
    found = computed(case)
    clipped = unified_background(found.heads, training=False)
    assert differs(clipped, array(case, "logits_small"))
    with torch.no_grad():
        old_bodies, old_heads = model(case, "previous")(array(case, "features_old"))
        bodies, heads = found.model(array(case, "features_new"))
    stride = found.size[-1] // found.features.shape[-1]
    background = array(case, "labels")[:, ::stride, ::stride] == 0
    if background.any():
        pairs = zip(bodies[:-1], old_bodies, strict=True)
        over_background = sum(
            ((new - old).square() * background.unsqueeze(1)).sum() / background.sum() / new.shape[1]
            for new, old in pairs
        )
        assert differs(over_background, number(case, "loss_ear"))
    without_r = head_distillation([head[:, 1:] for head in heads[:-1]], [head[:, 1:] for head in old_heads])
    assert differs(without_r, number(case, "loss_head"))
