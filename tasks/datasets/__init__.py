"""Data sets, and the one list of them."""
