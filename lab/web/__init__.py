"""What is spoken to over HTTP: registries, Prometheus, a browser; and certificates for it."""
