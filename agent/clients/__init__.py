"""Everything remote, one module each. Third-party errors and payloads end here."""
