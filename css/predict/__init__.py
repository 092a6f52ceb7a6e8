"""Masks for images of one's own: what is read, how it is seen, what is written."""
