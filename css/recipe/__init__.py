"""A recipe, its runs, and who computes them."""
