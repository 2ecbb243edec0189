"""lmms-eval's benchmarks on a tove checkpoint; only `manifest` and `model` need lmms-eval."""
