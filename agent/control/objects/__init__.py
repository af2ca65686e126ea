"""API objects that the controller watches and writes."""
