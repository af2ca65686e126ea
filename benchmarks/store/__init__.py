"""The store: builds into it, collection, signing, look-ups; and made-up stores for these."""
