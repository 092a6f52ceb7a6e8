"""Task-incremental classification, as `css.kinds` needs it: a label per image, a head per task, no background."""

import torch

from css.accuracy import AccuracyRecord, accuracies, accuracy_table, summarise
from css.accuracy_columns import AccuracyColumns
from css.classifier import IMAGENET, Classifier, width_of
from css.fusion import kl_divergence
from css.report import markdown, percent
from tasks import InputError, split_evenly
from tasks.images import PaddedCrop, Resized

# Mean and deviation of the pixels that Adam-NSCL divides by; ImageNet's for the others.
PIXELS = {"cifar100": ((0.507, 0.487, 0.441), (0.267, 0.256, 0.276))}


class Classification:
    first_object = 0
    has_layouts = False
    record = AccuracyRecord
    columns = AccuracyColumns()

    def check(self, config, method):
        width_of(config.model.encoder)
        if method.segmentation_only:
            raise InputError(
                f"--method {config.method} needs label maps with a background; for image labels choose another one, "
                "for example lwf, ewc or finetune+s2mf (see css list)."
            )
        if config.evaluation == "whole":
            raise InputError("--evaluation whole is for label maps; images with one label are tested whole anyway.")
        if config.model.encoder_weights != "none":
            raise InputError("--model.encoder-weights must be none: there are none for the networks of image labels.")

    def split(self, protocol, num_classes, order):
        return split_evenly(protocol, num_classes, order)

    def build(self, config, groups, pretrained=True):
        return Classifier(config.model.encoder, groups, *PIXELS.get(config.dataset, IMAGENET))

    def train_view(self, crop):
        return PaddedCrop(crop)

    def test_view(self, config):
        return Resized(config.train.crop)

    def answers(self, model, logits, labels):
        """The best channel of the head that the label belongs to: the task is told in testing."""
        head = model.head_of().to(logits.device)
        other = head[None, :, None, None] != head[labels.long()][:, None]
        return logits.masked_fill(other, -torch.inf).argmax(1)

    def require_room(self, count, channels):
        """Nothing: a dream shows one class, and classes may take turns from task to task."""

    def queries(self, count, size, channels, seed, layouts):
        """Every class about equally often, in maps of one pixel; a random choice if there are more classes."""
        generator = torch.Generator().manual_seed(seed)
        classes = channels.start + torch.randperm(len(channels), generator=generator)
        order = torch.randperm(count, generator=generator)
        return classes.to(torch.uint8).repeat(-(-count // len(classes)))[:count][order].view(-1, 1, 1)

    def old_kl(self, teacher, logits, num_old):
        """Mean over the old heads; the new one has nothing to do with them."""
        return kl_divergence(teacher, logits[:, :num_old])

    def task_result(self, task, confusion, groups):
        return accuracies(task, confusion, groups)

    def summary(self, tasks):
        return summarise([task["accuracy"] for task in tasks], joint=len(tasks[0]["accuracy"]) > 1)

    def brief(self, result):
        found = result["accuracy"]
        return f"accuracy {percent(found[-1])}, mean over tasks so far {percent(sum(found) / len(found))}"

    def run_table(self, results):
        return accuracy_table(results)

    def score_table(self, result):
        rows = [[str(number), percent(value)] for number, value in enumerate(result["accuracy"])]
        return markdown(["task", "accuracy"], rows)

    def draw(self, home, earlier, stream, task, model, config, processes):
        """Nothing: there is no mask to show."""

    def require_masks(self, what):
        raise InputError(f"{what} needs a network that draws masks, not one for image labels.")
