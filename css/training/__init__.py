"""The training loop and the test."""
