"""An ImageCache object as values: its request, its status, and how both are read and written."""
