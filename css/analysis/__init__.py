"""What Split2MetaFusion did in a task."""
