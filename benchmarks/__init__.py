"""Benchmarks: `make bench` or `python -m benchmarks`; ratios against peers taken in the same run."""
