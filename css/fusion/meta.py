"""Meta-weighted fusion of the slow and the fast model: gates learnt on dreams (Split2MetaFusion, section 3.3)."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from tqdm import tqdm

from css.config.options import require_values
from css.fusion.gates import by_entry, gate_groups, interpolate, linear, with_constant_statistics
from css.losses import background_kl, kl_divergence
from css.model.output import logits_of
from css.model.state import State, evaluating
from tasks import InputError

Part = tuple[Tensor, Tensor]  # normalised images (N, C, H, W) and the logits that are wanted for them
ALPHAS = tuple(i / 10 for i in range(11))
MIX = 0.5  # share of the way that Reptile goes to where its inner steps end


@dataclass(frozen=True)
class FusionOptions:
    """How the gates are learnt.

    Raises:
        InputError: a value out of range.
    """

    steps: int = 50
    """Steps of the gates."""
    lr: float = 0.1
    """Learning rate of the gates, before the sigmoid."""
    batch: int = 8
    """Dreams of old and of new classes each per step."""
    optimizer: Literal["adam", "reptile"] = "adam"
    """Adam on the sum of both losses, or first-order meta-learning (Reptile): SGD on old and new dreams in turn, then
    half of the way there."""
    start: Literal["half", "linear"] = "half"
    """All gates at 0.5, or at the best single coefficient."""
    old_weight: float = 1.0
    """Weight of the old classes' loss."""
    held_out: float = 0.25
    """Share of the dreams on which the best gates are chosen."""
    statistics: Literal["interpolate", "dreams", "dreams+images"] = "interpolate"
    """Running statistics of BatchNorm in the fused model: interpolated with the gate of their channel, or measured anew
    on the dreams, or on dreams and training images of this task."""

    def __post_init__(self) -> None:
        require_values(self, "--options.fuse", {
            "steps": (self.steps >= 0, "at least 0"),
            "lr": (self.lr > 0, "above 0"),
            "batch": (self.batch >= 1, "at least 1"),
            "old_weight": (self.old_weight >= 0, "at least 0"),
            "held_out": (0 <= self.held_out < 1, "from 0 to below 1"),
        })  # fmt: skip


class Fusion(NamedTuple):
    """What two models have become, and how."""

    state: dict[str, Tensor]  # of the fused model
    gates: dict[str, Tensor]  # by layer, 1 = slow, one number per output channel
    history: list[dict[str, float]]  # per step: old and new, and held_out where it was measured


class MetaFusion:
    """Finds A in W = A W_slow + (I - A) W_fast, by KL(teacher || fused) on old and KL(fast || fused) on new images.

    `model`: a network of the right architecture, whose own parameters are neither used nor changed. `teacher`: the
    model before the task, with `num_old` output channels. `keep_fast`: prefixes of entries that are taken from the
    fast model, such as the new classifier. `old_kl(teacher, logits, num_old)`: KL on old images, by default with the
    new classes as background.
    """

    def __init__(self, model: nn.Module, slow: State, fast: State, teacher: nn.Module, num_old: int,
                 options: FusionOptions = FusionOptions(), seed: int = 0, keep_fast: Sequence[str] = (),
                 old_kl: Callable[[Tensor, Tensor, int], Tensor] | None = None) -> None:  # fmt: skip
        self.model, self.slow, self.fast, self.teacher = model, slow, fast, teacher
        self.num_old, self.options, self.seed, self.keep_fast = num_old, options, seed, tuple(keep_fast)
        self.old_kl = old_kl or background_kl

    def fuse(self, old_images: Tensor, new_images: Tensor) -> Fusion:
        """Learns the gates on normalised images (N, C, H, W) of old and of new classes.

        Raises InputError if the loss is not a finite number.
        """
        with self._evaluating():
            groups = self._groups(old_images[:1])
            old, new = self._with_targets(old_images, new_images)
            (old, old_held), (new, new_held) = (self._hold_out(*part) for part in (old, new))
            start = 0.0
            if self.options.start == "linear":
                alpha, _ = self._best_linear(old, new, ALPHAS)
                start = torch.logit(torch.tensor(alpha), eps=0.05).item()
            raw = {
                gate: torch.full((len(self.fast[entries[0]]),), start, dtype=self.fast[entries[0]].dtype,
                                 device=old_images.device, requires_grad=True)
                for gate, entries in groups.items()
            }  # fmt: skip
            gates, history = self._learn(raw, groups, (old, new), (old_held, new_held))
            return Fusion(self._state(groups, gates), gates, history)

    def best_linear(self, old_images: Tensor, new_images: Tensor, alphas: Sequence[float] = ALPHAS
                    ) -> tuple[float, list[float]]:  # fmt: skip
        """The single coefficient with the smallest loss, and the losses of all (the Connector, searched on dreams).

        Raises InputError if no loss is a finite number.
        """
        with self._evaluating():
            old, new = self._with_targets(old_images, new_images)
            return self._best_linear(old, new, alphas)

    def loss(self, state: State, old_images: Tensor, new_images: Tensor) -> tuple[float, float]:
        """KL on old and on new images of any state of the network."""
        with self._evaluating(), torch.no_grad():
            old, new = self._with_targets(old_images, new_images)
            of_old, of_new = self._losses(state, old, new)
            return of_old.item(), of_new.item()

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        with evaluating(self.model), evaluating(self.teacher):
            yield

    def _groups(self, example: Tensor) -> dict[str, list[str]]:
        groups = gate_groups(self.model, example)
        return {gate: entries for gate, entries in groups.items() if not entries[0].startswith(self.keep_fast)}

    def _state(self, groups: Mapping[str, list[str]], gates: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return interpolate(self.slow, self.fast, by_entry(groups, gates))

    @torch.no_grad()
    def _with_targets(self, old_images: Tensor, new_images: Tensor) -> tuple[Part, Part]:
        """Images and the logits of the model that knows them, which do not change."""
        size = self.options.batch
        old = torch.cat([logits_of(self.teacher(images)) for images in old_images.split(size)])
        new = torch.cat([logits_of(functional_call(self.model, dict(self.fast), images)) for images in
                         new_images.split(size)])  # fmt: skip
        return (old_images, old), (new_images, new)

    def _hold_out(self, images: Tensor, targets: Tensor) -> tuple[Part, Part]:
        """The part to learn from and the part to choose by; with a single image both are that one."""
        number = min(len(images) - 1, round(self.options.held_out * len(images)))
        if number < 1:
            return (images, targets), (images, targets)
        return (images[number:], targets[number:]), (images[:number], targets[:number])

    def _losses(self, state: State, old: Part, new: Part) -> tuple[Tensor, Tensor]:
        """Mean KL on old and on new images, which go through the network together."""
        logits = self._logits(state, torch.cat([old[0], new[0]]))
        of_old, of_new = logits.split([len(old[0]), len(new[0])])
        return self.old_kl(old[1], of_old, self.num_old), kl_divergence(new[1], of_new)

    def _old_loss(self, state: State, old: Part) -> Tensor:
        return self.old_kl(old[1], self._logits(state, old[0]), self.num_old)

    def _new_loss(self, state: State, new: Part) -> Tensor:
        return kl_divergence(new[1], self._logits(state, new[0]))

    def _logits(self, state: State, images: Tensor) -> Tensor:
        """Of a state of the network, as many images at a time as a step sees."""
        state = with_constant_statistics(self.model, state)
        parts = images.split(2 * self.options.batch)
        return torch.cat([logits_of(functional_call(self.model, dict(state), part)) for part in parts])

    @torch.no_grad()
    def _best_linear(self, old: Part, new: Part, alphas: Sequence[float]) -> tuple[float, list[float]]:
        losses = []
        for alpha in alphas:
            of_old, of_new = self._losses(linear(self.slow, self.fast, alpha, self.keep_fast), old, new)
            losses.append((self.options.old_weight * of_old + of_new).item())
        smallest = _require_finite(min(filter(math.isfinite, losses), default=None))
        return alphas[losses.index(smallest)], losses

    def _learn(
        self, raw: Mapping[str, Tensor], groups: Mapping[str, list[str]], train: tuple[Part, Part],
        held: tuple[Part, Part],
    ) -> tuple[dict[str, Tensor], list[dict[str, float]]]:  # fmt: skip
        """Steps on random batches; the gates with the smallest held-out loss."""
        options = self.options
        history: list[dict[str, float]] = []
        every = max(1, options.steps // 10)
        best: dict[str, Tensor] | None = None
        best_loss = float("inf")
        adam = torch.optim.Adam(raw.values(), options.lr) if options.optimizer == "adam" else None

        def losses(batch: tuple[Part, Part]) -> tuple[Tensor, Tensor]:
            of_old, of_new = self._losses(self._state(groups, _open(raw)), *batch)
            return options.old_weight * of_old, of_new

        def in_turn(batch: tuple[Part, Part]) -> Iterator[Tensor]:
            """Both losses one after the other, each of the gates as they are then."""
            yield options.old_weight * self._old_loss(self._state(groups, _open(raw)), batch[0])
            yield self._new_loss(self._state(groups, _open(raw)), batch[1])

        batches = self._batches(*train)
        for index in tqdm(range(options.steps + 1), desc="fusion", unit="step", leave=False, disable=None):
            entry: dict[str, float] = {}
            if index % every == 0 or index == options.steps:
                with torch.no_grad():
                    entry["held_out"] = float(sum(losses(held)))
                if entry["held_out"] < best_loss:
                    best, best_loss = _open({gate: value.detach() for gate, value in raw.items()}), entry["held_out"]
                _require_finite(None if best is None else best_loss)
            if index < options.steps:
                batch = next(batches)
                entry["old"], entry["new"] = (
                    _adam_step(losses(batch), adam) if adam else _reptile_step(raw, in_turn(batch), options.lr)
                )
                history.append(entry)
        assert best is not None  # measured before the first step
        return best, history

    def _batches(self, old: Part, new: Part) -> Iterator[tuple[Part, Part]]:
        generator = torch.Generator().manual_seed(self.seed)

        def drawn(part: Part) -> Part:
            chosen = torch.randperm(len(part[0]), generator=generator)[: self.options.batch].to(part[0].device)
            return part[0][chosen], part[1][chosen]

        while True:
            yield drawn(old), drawn(new)


def _open(raw: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Gates between 0 and 1."""
    return {gate: value.sigmoid() for gate, value in raw.items()}


def _require_finite(loss: float | None) -> float:
    if loss is None:
        raise InputError(
            "The loss of the fusion is not a finite number, so slow model, fast model or dreams hold such values; give "
            "a smaller --train.later-lr or --options.dream.lr."
        )
    return loss


def _adam_step(losses: tuple[Tensor, Tensor], optimizer: torch.optim.Optimizer) -> tuple[float, float]:
    of_old, of_new = losses
    optimizer.zero_grad()
    (of_old + of_new).backward()
    optimizer.step()
    return of_old.item(), of_new.item()


def _reptile_step(raw: Mapping[str, Tensor], losses: Iterator[Tensor], lr: float) -> tuple[float, float]:
    """One step of SGD on the old, then one on the new dreams; then `MIX` of the way there (Nichol et al., 2018)."""
    start = {gate: value.detach().clone() for gate, value in raw.items()}
    values = []
    for loss in losses:
        gradients = torch.autograd.grad(loss, list(raw.values()), allow_unused=True)
        with torch.no_grad():
            for value, gradient in zip(raw.values(), gradients, strict=True):
                if gradient is not None:
                    value.sub_(lr * gradient)
        values.append(loss.item())
    with torch.no_grad():
        for gate, value in raw.items():
            value.copy_(start[gate] + MIX * (value - start[gate]))
    of_old, of_new = values
    return of_old, of_new
