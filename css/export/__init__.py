"""Models for other runtimes, checked in them."""
