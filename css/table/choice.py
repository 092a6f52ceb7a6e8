"""Which columns the table of a data set has."""

from css.table.classification import AccuracyColumns
from css.table.columns import Columns
from css.table.segmentation import IouColumns
from tasks.datasets.registry import labels_of


def columns_of(dataset: str) -> Columns:
    """Those of a data set, by its name. Raises InputError for an unknown one."""
    return IouColumns() if labels_of(dataset) == "pixels" else AccuracyColumns()
