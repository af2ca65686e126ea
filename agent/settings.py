"""Settings of the roles: frozen dataclasses, one per subject.

Each field's docstring has unit, default and consequence. Values come from flags
and environment variables of the same name (agent.cli).
"""
