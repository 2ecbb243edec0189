"""Score what a model says."""
