"""What may be wrong with a machine, and the fix."""
