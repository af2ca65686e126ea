"""The kernel's page cache of layer files: what of them is in memory, and reading ahead into it."""
