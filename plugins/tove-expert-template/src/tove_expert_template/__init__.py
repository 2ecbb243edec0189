"""Colour statistics as a vision expert for tove."""
