"""What is to be done about a cache: pure functions of its object and of what is observed."""
