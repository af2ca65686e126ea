"""Folders shown with other owners, for containers in user namespaces: ranges of ids, and mounts."""
