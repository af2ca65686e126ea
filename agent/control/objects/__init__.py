"""The API objects that the controller reads and writes."""
