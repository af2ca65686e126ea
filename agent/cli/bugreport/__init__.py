"""A report about a fault: what a maintainer needs of an installation, without secrets."""
