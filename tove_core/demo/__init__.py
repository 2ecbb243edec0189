"""A tiny world of rendered scenes with its own CLIP and vision experts: all of tove runs on it without a download."""
