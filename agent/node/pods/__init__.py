"""Pods of this node: where they come from, and what is prepared for each."""
