"""The builders' Jobs: manifest, template, patch, state."""
