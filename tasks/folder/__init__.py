"""A data set as a folder with data.yaml: its description, the source that reads it, the guess and the check."""

from tasks.folder.check import check
from tasks.folder.description import FILE, Description
from tasks.folder.guess import init
from tasks.folder.source import Folder

__all__ = ["FILE", "Description", "Folder", "check", "init"]
