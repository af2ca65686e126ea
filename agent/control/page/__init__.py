"""The controller's page for people, and the keys of who may use it."""
