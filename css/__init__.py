"""How a stream of segmentation tasks is learnt: model, trainer, methods, evaluation, report, command line.

For Python: `css.load`, `css.train`, `css.Model` and `css.Dataset`, which are in `css.api`.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
_API = ("Dataset", "Model", "load", "train")


def __getattr__(name: str) -> Any:
    """The functions of `css.api`: PyTorch takes seconds to import, which is for those who call one."""
    if name in _API:
        return getattr(importlib.import_module("css.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_API])
