"""Which encoders the toolkit takes: writes docs/encoders.md after every encoder; called again, it goes on there.

    python benchmarks/encoders.py [NAME ...]

Every native encoder of segmentation-models-pytorch and 63 well-known names of timm, or the given ones. Speed:
a training step (forward, cross-entropy, backward) of DeepLabV3 at 64 px, batch 2, fp32, in CPU time of one thread; the
second of two, relative to the same with resnet50.
"""

import functools
import importlib.metadata
import sys
import time
import warnings
from pathlib import Path

import torch
from segmentation_models_pytorch.encoders import encoders
from torch.nn import functional as F
from tqdm import tqdm

from css.losses import upsample
from css.model.segmenter import Segmenter
from plop_baseline.pod import pod_loss
from tasks import InputError

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "encoders.md"
SIDE, BATCH, STEPS = 64, 2, 1
MOST = 100e6  # parameters of an encoder that is timed
TIMM = [
    "resnet18", "resnet50", "resnet101", "resnet50d", "resnet26d", "resnext50_32x4d", "wide_resnet50_2",
    "seresnet50", "ecaresnet50d", "resnetv2_50", "resnest50d", "res2net50_26w_4s", "skresnet34", "regnetx_032",
    "regnety_032", "regnety_160", "nfnet_f0", "dm_nfnet_f0", "gernet_m", "cspresnet50", "cspdarknet53", "dpn92",
    "mobilenetv2_100", "mobilenetv3_large_100", "mobilenetv3_small_100", "mobilenetv4_conv_small",
    "mobilenetv4_conv_medium", "mnasnet_100", "efficientnet_b0", "efficientnet_b3", "tf_efficientnet_b0",
    "tf_efficientnet_lite0", "tf_efficientnetv2_s", "efficientnetv2_rw_s", "mixnet_s", "rexnet_100",
    "convnext_tiny", "convnext_base", "convnextv2_tiny", "inception_next_tiny", "xception41", "xception65",
    "hrnet_w18", "dla34", "densenet121", "vgg11_bn", "vgg16", "inception_v3", "inception_v4", "ghostnet_100",
    "hardcorenas_a", "fastvit_t8", "repvgg_a0", "repvit_m1", "swin_tiny_patch4_window7_224",
    "swinv2_tiny_window8_256", "pvt_v2_b0", "edgenext_small", "efficientvit_b0", "maxvit_tiny_tf_224",
    "poolformer_s12", "hiera_tiny_224", "test_resnet",
]  # fmt: skip
HEAD = """| encoder | strides | channels | taps | PLOP | parameters (M) | frozen | images/s |
|---|---|---|---|---|---:|---:|---:|"""


def main(names: list[str]) -> None:
    """Tries every name and writes the document."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    names = names or [*encoders, *(f"tu-{name}" for name in TIMM)]
    lines = known_lines()
    for name in tqdm([name for name in names if name not in lines], unit="encoder"):
        lines[name] = try_encoder(name)
        found = [lines[name] for name in names if name in lines]
        rows, refused = ([line for line in found if line.count("|") == bars] for bars in (HEAD.count("|") // 2, 3))
        DOCUMENT.write_text(document(rows, refused), encoding="utf-8")


def known_lines() -> dict[str, str]:
    """The lines of the document as it is, by encoder; none if it was made with other versions."""
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    lines = text.splitlines() if versions() in " ".join(text.split()) else []
    return {line.split()[1]: line for line in lines if line.startswith("| ") and line.split()[1] != "encoder"}


def versions() -> str:
    """Of what the answers depend on."""
    packages = ("torch", "segmentation-models-pytorch", "timm")
    return ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)


def try_encoder(name: str) -> str:
    """A line of the first table, or of that of refused names."""
    try:
        return measure(name)
    except InputError as error:
        return f"| {name} | {reason(error)} |"


def reason(error: InputError) -> str:
    """What stands between the name and the advice."""
    return str(error).partition(" (")[2].partition("); choose")[0] if "); choose" in str(error) else "unknown name"


def measure(name: str) -> str:
    """One line of the table. Raises InputError for an encoder that is refused."""
    torch.manual_seed(0)
    model = Segmenter(name).to(memory_format=torch.channels_last)
    parameters = list(model.encoder.parameters())
    frozen = sum(not parameter.requires_grad for parameter in parameters)
    model.grow([0, 1])
    model.grow([2])
    images = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        output = model.eval()(images)
    strides = ", ".join(f"{SIDE / tap.shape[-1]:g}" for tap in output.taps)
    channels = ", ".join(str(tap.shape[1]) for tap in output.taps)
    cells = [name, strides, channels, kind_of_taps(model, output.taps), plop_runs(model, images),
             f"{sum(p.numel() for p in parameters) / 1e6:.1f}", str(frozen or "-"),
             speed(model)]  # fmt: skip
    return f"| {' | '.join(cells)} |"


def kind_of_taps(model: Segmenter, taps: tuple[torch.Tensor, ...]) -> str:
    """What local POD compares: sums before the last ReLU of a stage, what a ReLU leaves, or values of both signs."""
    if model._tapped:
        return "pre-activation"
    return "post-ReLU" if all(tap.min() >= 0 for tap in taps) else "linear"


def plop_runs(model: Segmenter, images: torch.Tensor) -> str:
    """Whether local POD between the maps of these images and of lighter ones is finite, and its gradients are."""
    with torch.no_grad():
        outputs = [model.eval()(images), model(images + 0.1)]
    old, new = [[*found.taps, found.features, found.logits] for found in outputs]
    new = [found.requires_grad_() for found in new]
    loss = pod_loss(old, new, 3, 1, 0.01, 5e-4)
    finite = loss.isfinite() and all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, new))
    return "runs" if finite and loss > 0 else "not finite"


def speed(model: Segmenter) -> str:
    """Relative to resnet50."""
    if sum(parameter.numel() for parameter in model.encoder.parameters()) > MOST:
        return "-"
    return f"{seconds_of_standard() / seconds_of(model):.2f}"


@functools.cache
def seconds_of_standard() -> float:
    """Of what others are compared with."""
    model = Segmenter("resnet50").to(memory_format=torch.channels_last)
    model.grow([0, 1, 2])
    return min(seconds_of(model) for _ in range(3))


def seconds_of(model: Segmenter) -> float:
    """CPU seconds of the fastest of some training steps."""
    images = torch.rand(BATCH, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    labels, seconds = torch.randint(0, 3, (BATCH, SIDE, SIDE)), []
    model.train()
    for _ in range(STEPS + 1):
        model.zero_grad()
        began = time.process_time()
        F.cross_entropy(upsample(model(images).logits, labels), labels).backward()
        seconds.append(time.process_time() - began)
    return min(seconds[1:])


def document(rows: list[str], refused: list[str]) -> str:
    """docs/encoders.md."""
    return f"""# Encoders

Made by `python benchmarks/encoders.py` ({versions()}). `--model.encoder NAME` takes every encoder of segmentation-
models-pytorch (smp) that can be dilated to output stride 16, and as `tu-NAME` every such network of timm: {len(rows)}
of the {len(rows) + len(refused)} tried here. The others are refused with a sentence before anything is written.

- *strides*, *channels*: of the four maps that local POD compares; the last is the decoder's input.
- *taps*: **pre-activation**, the sums before the last ReLU of each stage, as in the published PLOP code (smp's own
  ResNets); **post-ReLU**, maps without negative values; **linear**, maps with both signs, which networks without a
  ReLU at the end of a stage give. Local POD squares its maps, so it sees the sign of none of them.
- *PLOP*: its distillation loss on these maps and its gradients are finite.
- *parameters*: of the encoder, in millions. *frozen*: tensors that no output depends on, such as parts of a head
  that was left in place; they are not trained, so that several processes do not wait for their gradients.
- *images/s*: training speed at {SIDE} px, batch {BATCH}, fp32, one thread, relative to resnet50 (larger is faster;
  above {MOST / 1e6:.0f} million parameters not timed). Small images, one thread, one step beside other work:
  good to about a third, and it says little about GPUs or 512 px.

**resnet50 and tu-resnet50 are different networks** although the same weights fit both. smp dilates every 3x3
convolution of the last stage; timm and torchvision do not dilate the first one. With the same weights the last map
differs, and `resnet50` gives PLOP pre-activation taps, `tu-resnet50` post-ReLU ones. The same is true of the other
ResNets. A run folder, a table and `--task0` keep them apart by their names.

{HEAD}
{chr(10).join(rows)}

## Refused

| encoder | reason |
|---|---|
{chr(10).join(refused)}
"""


if __name__ == "__main__":
    main(sys.argv[1:])
