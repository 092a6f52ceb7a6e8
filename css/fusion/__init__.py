"""Two models become one: gates per channel, learnt on dreams."""

from css.fusion.gates import interpolate
from css.fusion.meta import MetaFusion

__all__ = ["MetaFusion", "interpolate"]
