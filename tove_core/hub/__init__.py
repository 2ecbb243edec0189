"""Experts at run time: what they see, where their weights come from, and how they stay frozen."""
