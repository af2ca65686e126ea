"""Child processes that can be killed, and ends for processes that hang."""
