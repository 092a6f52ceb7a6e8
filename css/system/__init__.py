"""Files, processes, log: what has nothing to do with learning."""
