"""The table of a recipe."""
