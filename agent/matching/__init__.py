"""Which cache serves a pod, how fully, and why (pure functions)."""
