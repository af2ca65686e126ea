"""How images start: observing it once, and reading ahead of the next starts what was seen."""
