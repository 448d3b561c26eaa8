"""Benchmarks: one file each, listed in `ozone/cli/bench.py`, with the machine's limit beside the figure."""
