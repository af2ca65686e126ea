"""What the first start of an image reads: values, and their text form. Pure."""
