"""Container registries: the distribution protocol and the credentials for it."""
