"""Benchmarks of the operators: every figure is of a form that was checked against float64 in the same run."""

from __future__ import annotations
