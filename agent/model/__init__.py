"""Frozen values and the pure rules about them: no I/O and no clock.

All layers above may import it; it imports only errors and kits.
"""
