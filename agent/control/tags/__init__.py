"""What the tags of Ready caches stand for at their registries, asked regularly and sparingly."""
