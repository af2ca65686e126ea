"""From an ImageCache object to the next step for it."""
