"""HTTP servers of the controller besides its metrics: UCloud's API with the page, the webhook."""
