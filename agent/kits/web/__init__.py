"""What HTTP servers of all roles share: listening, TLS, pages for people."""
