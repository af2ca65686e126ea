"""Writing a store: layers, records, and the claims that protect a build."""
