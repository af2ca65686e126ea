"""Composition roots: open resources, start services, nothing else."""
