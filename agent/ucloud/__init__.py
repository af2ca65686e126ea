"""UCloud's API for image acceleration: protocol, endpoint, actions."""
