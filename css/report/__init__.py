"""results.json, and what is read from it."""
