"""Everything remote, a folder for each server. Third-party errors and payloads end here."""
