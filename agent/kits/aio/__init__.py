"""asyncio helpers: owned tasks, backoff, rate limits, locks, threads."""
