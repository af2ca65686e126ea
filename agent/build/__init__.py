"""Registry -> store: resolve, fetch, verify, convert, publish."""
