"""The Kubernetes API: client, watches, Leases, Events, errors."""
