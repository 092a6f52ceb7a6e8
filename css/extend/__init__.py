"""One more task for a model that is there: new classes from their own images, without the old ones."""
