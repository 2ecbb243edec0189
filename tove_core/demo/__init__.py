"""A tiny world of rendered scenes, with its own CLIP and vision experts, on which all of tove runs without a download."""
