"""Adapters shared by built-in experts whose architecture comes from the same library. They import torch."""
