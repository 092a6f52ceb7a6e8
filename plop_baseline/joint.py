"""Joint training: all classes at once from all images with all labels. The upper bound, not a continual method."""

from css.method.contract import Method


class Joint(Method):
    """A stream of a single task, which is the first one: plain cross-entropy."""

    summary = "all classes in one task with all labels (upper bound)"
    joint = True
