"""Whether pixels or images carry the labels: what the learner asks."""
