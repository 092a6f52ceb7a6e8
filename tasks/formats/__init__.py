"""Annotation files of other tools as label maps: readers for each format, and the writer of a folder with data.yaml."""

from tasks.formats.annotated import Annotated, Item
from tasks.formats.convert import convert, read_any

__all__ = ["Annotated", "Item", "convert", "read_any"]
