"""Commands about caches and the store: create, get, delete, store."""
