"""The controller: what should exist in the store, and what may go from it."""
