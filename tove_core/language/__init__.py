"""Decoders: language models that generate text from vision tokens."""
