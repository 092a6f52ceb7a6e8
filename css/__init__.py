"""How a stream of segmentation tasks is learnt: model, trainer, methods, evaluation, report, command line."""

__version__ = "0.2.0"
