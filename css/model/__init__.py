"""Networks."""

from css.model.segmenter import Segmenter

__all__ = ["Segmenter"]
