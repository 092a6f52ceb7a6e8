"""Pretrained weights of an encoder, from smp's hub or from a local file."""

from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import get_encoder
from torch import nn

from tasks.errors import InputError

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its pixels, RGB


def pixel_statistics(encoder: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the input the encoder's published weights expect, for RGB in [0, 1].

    timm's encoders ("tu-...") say so themselves; ImageNet's for all others.
    """
    config = timm.get_pretrained_cfg(encoder.removeprefix("tu-")) if encoder.startswith("tu-") else None
    return (config.mean, config.std) if config else IMAGENET


def load_encoder_weights(encoder: nn.Module, name: str, weights: str | Path) -> None:
    """Loads "imagenet" (a download by smp) or a file (.safetensors, or .pth with a plain dict of tensors) in place.

    A file has the key names of the encoder (torchvision's for ResNets); a classification layer `fc` is left out.
    Raises InputError if the file does not fit the architecture.
    """
    state = _from_hub(name) if str(weights) == "imagenet" else _from_file(Path(weights))
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    own = encoder.state_dict()
    # Files in safetensors often leave out the counters that BatchNorm keeps; nothing here reads them.
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unfit = [key for key, value in state.items() if key not in own or own[key].shape != value.shape]
    if missing or unfit:
        raise InputError(
            f"--model.encoder-weights {weights} does not fit --model.encoder {name}: {len(missing)} tensors "
            f"are missing and {len(unfit)} are unknown or of another shape (first: {(missing + unfit)[0]}); "
            "give the weights of the same architecture."
        )
    encoder.load_state_dict({**own, **state})


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
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise InputError(
            f"--model.encoder-weights {path} is not a plain dict of tensors; save the encoder's state_dict."
        )
    return state


def _from_hub(name: str) -> dict[str, torch.Tensor]:
    try:
        return get_encoder(name, weights="imagenet").state_dict()
    except Exception as error:  # the hub's client has no common error class
        raise InputError(
            f"ImageNet weights of {name} cannot be fetched from the hub ({type(error).__name__}); give a local file or "
            "start untrained: --model.encoder-weights PATH or none."
        ) from None
