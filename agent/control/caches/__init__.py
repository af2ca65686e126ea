"""The store as the controller uses it."""
