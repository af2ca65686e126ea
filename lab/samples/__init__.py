"""Test images: the contents of their layers, and pushing them into a registry of the lab."""
