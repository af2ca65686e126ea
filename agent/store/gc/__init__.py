"""Deleting from a store in generations, so that no node loses what it reads."""
