"""The contract of a method."""

from css.method.contract import Method, plain_losses

__all__ = ["Method", "plain_losses"]
