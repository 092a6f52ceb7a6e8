"""Peak memory of testing whole images: DeepLabV3 of a ResNet-101, batch 1, noise of 512 px, 21 classes, bf16 or fp32.

    PYTHONPATH=. python benchmarks/evaluation_memory.py [--precision bf16]

What `css evaluate --geometry whole` does with an image, without the data: logits, answers, confusion. The peak is the
resident memory of the process (Linux: ru_maxrss), libraries and weights included, which are told, too.
"""

import argparse
import resource

import torch

from css.config.settings import ModelConfig, RunConfig, TrainConfig
from css.kinds.choice import kind_of
from css.metrics import ConfusionMatrix
from css.model.segmenter import Segmenter
from css.system.processes import Processes
from css.training.evaluate import _logits

CLASSES, SIDE, IMAGES = 21, 512, 2


def mib() -> float:
    """Largest resident memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="bf16")
    precision = parser.parse_args().precision
    libraries = mib()
    config = RunConfig("voc", "15-1", model=ModelConfig("resnet101", "none"), train=TrainConfig(precision=precision))
    model = Segmenter("resnet101").to(memory_format=torch.channels_last)
    model.grow(range(CLASSES))
    weights, kind, confusion = mib(), kind_of("voc"), ConfusionMatrix(CLASSES)
    for _ in range(IMAGES):
        image = torch.randint(256, (1, 3, SIDE, SIDE), dtype=torch.uint8)
        labels = torch.randint(CLASSES, (1, SIDE, SIDE), dtype=torch.uint8)
        answers = kind.answers(model, _logits(model, image, config, Processes()), labels)
        confusion.update(answers, labels)
    assert confusion.matrix.sum() == IMAGES * SIDE * SIDE
    print(f"{precision}: libraries {libraries:.0f} MiB, with weights {weights:.0f}, peak {mib():.0f}")


if __name__ == "__main__":
    main()
