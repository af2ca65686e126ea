"""Reading a store: what is there, by chain, image and cache."""
