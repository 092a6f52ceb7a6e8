"""Segmentation, as `css.kinds` needs it: a label per pixel, and a background that all else belongs to."""

from css.fusion import background_kl
from css.iou_columns import IouColumns
from css.layouts import require_room, sample_layouts
from css.losses import upsample
from css.metrics import average_over_tasks
from css.model import Segmenter
from css.pictures import chosen_images, draw_strip, save_predictions
from css.record import IouRecord
from css.report import iou_table, mean_table, percent
from css.results import task_result
from tasks import split_classes
from tasks.images import CentreCrop, RandomCrop, WholeImage
from tasks.source import BACKGROUND


class Segmentation:
    first_object = BACKGROUND + 1
    has_layouts = True
    record = IouRecord
    columns = IouColumns()

    def check(self, config, method):
        """Everything works."""

    def split(self, protocol, num_classes, order):
        return split_classes(protocol, num_classes, order)

    def build(self, config, groups, pretrained=True):
        return Segmenter(config.model.encoder, config.model.encoder_weights if pretrained else "none")

    def train_view(self, crop):
        return RandomCrop(crop)

    def test_view(self, config):
        """Centre crops (Resize + CenterCrop, as published) or whole images padded to a multiple of 16."""
        return CentreCrop(config.train.crop) if config.evaluation == "crop" else WholeImage()

    def answers(self, model, logits, labels):
        return upsample(logits, labels).argmax(1)

    def require_room(self, count, channels):
        require_room(count, channels)

    def queries(self, count, size, channels, seed, layouts):
        return sample_layouts(count, size, channels, seed, layouts)

    def old_kl(self, teacher, logits, num_old):
        return background_kl(teacher, logits, num_old)

    def task_result(self, task, confusion, groups):
        return task_result(task, confusion, len(groups[0]))

    def summary(self, tasks):
        return {"avg": average_over_tasks([task["groups"]["all"] for task in tasks])}

    def brief(self, result):
        return "mIoU " + ", ".join(f"{name} {percent(result['groups'][name])}" for name in ("old", "new", "all"))

    def run_table(self, results):
        return iou_table(results)

    def score_table(self, result):
        return mean_table(result)

    def draw(self, home, earlier, stream, task, model, config, processes):
        """Test images that stay the same for the whole stream, and what every task so far sees in them."""
        pictured = chosen_images(stream)
        save_predictions(home / "predictions.safetensors", model, task, pictured, config, processes)
        files = [folder / "predictions.safetensors" for folder in (*earlier, home)]
        draw_strip(home / "pictures.png", task, pictured, config, files)

    def require_masks(self, what):
        """They do."""
