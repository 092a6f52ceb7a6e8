"""Which tensor of a file is which of a network: the same names, but for a prefix and what wrappers make of them."""

import re
from collections import Counter
from collections.abc import Mapping

from torch import Tensor

from tasks.errors import InputError

_AFTER_THE_ENCODER = {"bn2"}  # of EfficientNets, between their last convolution and the classifier


def match_names(
    state: Mapping[str, Tensor], own: Mapping[str, Tensor], origin: str
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of `state` by the names of `own`, and the names of `state` that look like more of the same network.

    All names of a file stand behind the prefix under which most of the network's are found; what has another prefix is
    another part of a larger network, and what is below no part of the encoder's kind is a head: both are left out.

    Raises:
        InputError: the file (`origin`) holds several such networks.
    """
    theirs = {_in_files(name): name for name in own}
    aliases = theirs if _hits(state, theirs) > _hits(state, own) else {name: name for name in own}
    prefix = _prefix(state, aliases, origin)
    inside = {name.removeprefix(prefix): name for name in state if name.startswith(prefix)}
    found = {aliases[name]: state[full] for name, full in inside.items() if name in aliases}
    kinds = {_kind(name) for name in aliases}
    left = [
        full for name, full in inside.items()
        if name not in aliases and _kind(name) in kinds and name.split(".")[0] not in _AFTER_THE_ENCODER
    ]  # fmt: skip
    return found, left


def _in_files(name: str) -> str:
    """timm's own name of a tensor in smp's "tu-..." encoders, which hold `stages.0` as `model.stages_0`."""
    return re.sub(r"^([a-z]+)_(\d+)\.", r"\1.\2.", name.removeprefix("model."))


def _hits(state: Mapping[str, Tensor], names: Mapping[str, object]) -> int:
    """How many tensors of a file end with one of these names, behind the most frequent prefix."""
    return max(_prefixes(state, names).values(), default=0)


def _prefixes(state: Mapping[str, Tensor], names: Mapping[str, object]) -> Counter[str]:
    """What stands before the names of a network in a file, and how often."""
    found: Counter[str] = Counter()
    for full in state:
        parts = full.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                found["".join(f"{part}." for part in parts[:start])] += 1
    return found


def _prefix(state: Mapping[str, Tensor], names: Mapping[str, object], origin: str) -> str:
    found = _prefixes(state, names).most_common(2)
    if len(found) == 2 and found[0][1] == found[1][1] > len(names) / 2:
        raise InputError(
            f"{origin} holds several networks of this kind ({found[0][0]}... and {found[1][0]}...); keep one of them."
        )
    return found[0][0] if found else ""


def _kind(name: str) -> str:
    """The part of a network that a tensor is below, whatever its number: layer5 is of the kind of layer4."""
    return re.sub(r"\d+", "#", name.split(".")[0])
