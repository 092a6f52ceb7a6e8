"""How a stream of segmentation tasks is learnt: model, trainer, methods, evaluation, report, command line."""
