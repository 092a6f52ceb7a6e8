"""What same_results.py runs: all methods in seconds, so small that their scores say nothing about them.

The methods of segmentation and of image labels (but gd-wild, which needs a folder of images), Split2MetaFusion with
each of its projectors, a table of two methods and two seeds in bf16, and a run whose settings are none of the defaults.
"""

from typing import Any

SMALL: dict[str, Any] = {
    "classes": [1, 2, 3],
    "model": {"encoder": "tu-test_resnet", "encoder_weights": "none"},
    "train": {"epochs": 1, "later_epochs": 1, "batch": 8, "crop": 64, "workers": 0, "precision": "fp32"},
}
QUICK = {
    "fast_share": 0.5, "statistics": {"batches": 3}, "fuse": {"steps": 4},
    "dream": {"count": 8, "batch": 4, "steps": 4},
}  # fmt: skip


def _train(**changes: Any) -> dict[str, Any]:
    return {**SMALL, "train": {**SMALL["train"], **changes}}


def _s2mf(projector: str, **options: Any) -> dict[str, Any]:
    return {"method": "plop+s2mf", "name": f"s2mf-{projector}", "options": {"projector": projector, **options}}


# By name: a recipe, or the arguments of one `css run`. In a recipe the first method learns the first task for all.
RUNS: dict[str, dict[str, Any] | list[str]] = {
    "methods": {
        "dataset": "shapes", "protocols": ["1-1"], "seeds": [1], "settings": SMALL,
        "methods": ["finetune", "plop", "plop+align", "plop+replay", "mib", "ewc", "ilt", "lwf", "lwf-mc", "frozen",
                    "frozen+align", "joint"],
    },
    "s2mf": {
        "dataset": "shapes", "protocols": ["1-1"], "seeds": [1], "settings": _train(later_epochs=2),
        "options": {"plop+s2mf": QUICK},
        "methods": [
            _s2mf("all"), _s2mf("tpnsp", align=False), _s2mf("none", align=False, layouts="free", current_images=4),
            _s2mf("nsp", align=False, soft=True, fusion="linear"),
        ],
    },
    "labels": {
        "dataset": "shapes-cls", "protocols": ["2-split"], "seeds": [1],
        "settings": {"classes": [1, 2, 3, 4], "train": {
            "epochs": 1, "later_epochs": 2, "batch": 16, "workers": 0, "precision": "fp32"}},
        "options": {"finetune+s2mf": {**QUICK, "projector": "tpnsp"}, "lwf+s2mf": QUICK,
                    "nsp": {"statistics": {"batches": 3}}, "connector": {"statistics": {"batches": 3}},
                    "gem": {"memory": 20, "batch": 8}, "a-gem": {"memory": 20, "batch": 8}},
        "methods": ["finetune", "ewc", "lwf", "frozen", "mas", "gem", "a-gem", "nsp", "connector", "finetune+s2mf",
                    "lwf+s2mf", "joint"],
    },
    "table": {
        "dataset": "shapes", "protocols": ["2-1"], "seeds": [1, 2], "settings": _train(precision="bf16"),
        "methods": ["finetune", "plop"],
    },
    "settings": [
        "run", "shapes", "1-1", "--name", "settings", "--method", "mib", "--options.kd-weight", "5", "--seed", "3",
        "--classes", "1", "2", "3", "--order", "3", "1", "2", "--setting", "disjoint", "--future", "ignore",
        "--void", "background", "--evaluation", "whole", "--model.encoder", "resnet18", "--train.epochs", "1",
        "--train.later-epochs", "2", "--train.crop", "32", "--train.batch", "16", "--train.accumulate", "2",
        "--train.bn-group", "4", "--train.optimizer", "adam", "--train.lr", "0.001", "--train.later-lr", "0.0005",
        "--train.classifier-lr", "0.002", "--train.batch-norm-lr", "0.001", "--train.halve-at", "0.5",
        "--train.later-batch-norm", "freeze-stats", "--train.precision", "fp32", "--train.workers", "1",
    ],
}  # fmt: skip
