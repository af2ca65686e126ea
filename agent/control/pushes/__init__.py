"""What registries say of pushes: a reason to look a tag up, and nothing else is believed of it."""
