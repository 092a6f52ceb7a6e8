"""Which kind of labels a data set has."""

from css.kinds.classification import Classification
from css.kinds.kind import Kind
from css.kinds.segmentation import Segmentation
from tasks.datasets.registry import labels_of


def kind_of(dataset: str) -> Kind:
    """That of a data set, by its name. Raises InputError for an unknown one."""
    return Segmentation() if labels_of(dataset) == "pixels" else Classification()
