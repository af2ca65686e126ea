"""The controller and an agent before an API server; a thousand agents are in `fleet`."""
