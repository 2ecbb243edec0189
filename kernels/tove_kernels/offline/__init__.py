"""Compile the Triton kernels for a GPU that is not there, and read what they use from the machine code."""

from __future__ import annotations
