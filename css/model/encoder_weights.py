"""Pretrained weights of an encoder, from smp's hub or from a local file."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

from css.model.weight_names import match_names
from tasks.errors import InputError

_ENTRIES = ("state_dict", "model_state_dict", "model", "network", "net", "backbone", "encoder")  # of a checkpoint
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its pixels, RGB


def pixel_statistics(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input the encoder's published weights expect, for RGB in [0, 1].

    timm's encoders ("tu-...") say so themselves; ImageNet's for all others.
    """
    config = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    return (config.mean, config.std) if config else IMAGENET


def load_encoder_weights(encoder: nn.Module, name: str, weights: str | Path) -> None:
    """Loads "imagenet" (a download by smp) or a file (.safetensors, or .pth with nothing but tensors) in place.

    A file has the encoder's names (torchvision's for ResNets, timm's own for "tu-..."), perhaps all behind one prefix
    (`module.`, `backbone.encoder.`, whatever it is) and beside other parts of a network; a .pth may hold them in an
    entry `state_dict`, `model` or the like. A head that is left over is left out.

    Raises:
        InputError: the file cannot be read, does not fit the architecture, or holds values that are not finite.
    """
    state = _from_hub(name) if str(weights) == "imagenet" else _from_file(Path(weights))
    own = encoder.state_dict()
    origin = f"--model.encoder-weights {weights}"
    found, left = match_names(state, own, origin)
    # Files in safetensors often leave out the counters that BatchNorm keeps; nothing here reads them.
    missing = [key for key in own if key not in found and not key.endswith("num_batches_tracked")]
    unfit = [key for key, value in found.items() if not _fits(value, own[key])] + left
    if missing or unfit:
        raise InputError(
            f"{origin} does not fit --model.encoder {name}: {len(missing)} tensors are missing and {len(unfit)} are "
            f"unknown or of another shape (first: {(missing + unfit)[0]}); give the weights of the same architecture."
        )
    if broken := [key for key, value in found.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise InputError(
            f"{origin} holds values that are not finite in {len(broken)} tensors (first: {broken[0]}): its training "
            "failed; give another file."
        )
    encoder.load_state_dict({**own, **found})


def _from_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise InputError(f"--model.encoder-weights {path} is not a file; give none, imagenet or the path of a file.")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, RuntimeError, ValueError, EOFError) as error:
        reason = (str(error).splitlines() or ["it is empty"])[0][:120]
        raise InputError(
            f"--model.encoder-weights {path} cannot be read ({reason}); replace it by a complete file."
        ) from None
    except Exception as error:  # torch raises pickle.UnpicklingError for anything but tensors
        raise InputError(f"--model.encoder-weights {path} holds more than tensors ({type(error).__name__}).") from None
    for _ in range(2):  # an entry within an entry, but no endless chain
        state = _inner(state)
    if not _is_plain(state):
        raise InputError(
            f"--model.encoder-weights {path} is not a plain dict of tensors; save the encoder's state_dict."
        )
    return state


def _inner(state: Any) -> Any:
    """The network in the checkpoint of a training program, with optimiser and epoch beside it; or all there is."""
    entries = [state[key] for key in _ENTRIES if isinstance(state.get(key), dict)] if isinstance(state, dict) else []
    return entries[0] if entries else state


def _is_plain(state: Any) -> bool:
    return isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items())


def _fits(value: Tensor, own: Tensor) -> bool:
    return value.shape == own.shape and value.is_floating_point() == own.is_floating_point()


def _from_hub(name: str) -> dict[str, torch.Tensor]:
    try:
        return get_encoder(name, weights="imagenet").state_dict()
    except Exception as error:  # the hub's client has no common error class
        raise InputError(
            f"ImageNet weights of {name} cannot be fetched from the hub ({_said(error)}); give a local file or start "
            "untrained: --model.encoder-weights PATH or none."
        ) from None


def _said(error: Exception) -> str:
    """The kind of an error and the beginning of what it says."""
    return " ".join([f"{type(error).__name__}:", *str(error).split()])[:160].rstrip(":")
