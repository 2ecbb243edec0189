"""Scoring what a model says: metrics, and intervals for them."""
