"""FastestDet, a detector of a quarter of a million parameters, as a vision expert for tove."""
