"""HTTP servers of the controller besides its metrics: API and page, webhook, notifications."""
