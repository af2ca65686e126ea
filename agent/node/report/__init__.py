"""What the agent reports: savings, status, events."""
