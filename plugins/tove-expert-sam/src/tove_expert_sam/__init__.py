"""Segment Anything's image encoder as a vision expert for tove."""
