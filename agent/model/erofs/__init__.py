"""The format of layer files, and the program that makes them."""
