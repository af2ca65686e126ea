"""The programs: each opens its resources, builds its parts and starts its services.

No rule and no loop belongs here.
"""
