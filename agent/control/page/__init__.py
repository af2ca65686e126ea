"""The controller's page for people, and its probes."""
