"""Checkpoints on the hub: what may be pushed, the page beside it, and the push itself."""
