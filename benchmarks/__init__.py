"""Benchmarks: `python -m benchmarks`; ratios against peers are taken in the same run."""
