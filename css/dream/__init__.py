"""Images from a network alone."""

from css.dream.dreamer import Dreamer

__all__ = ["Dreamer"]
