"""The command that says which images are worth a cache."""
