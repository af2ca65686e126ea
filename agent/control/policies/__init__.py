"""Policies: which images are cached by themselves, because nodes pull them, within a budget."""
