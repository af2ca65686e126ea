"""Pods when they are created: the webhook that moves them, its certificate, pods left waiting."""
