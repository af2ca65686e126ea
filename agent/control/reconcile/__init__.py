"""The loop: what is observed, which cache is due, one step for it, and its reads and writes."""
