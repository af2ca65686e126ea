"""Commands that install in a cluster and remove: enable, disable."""
