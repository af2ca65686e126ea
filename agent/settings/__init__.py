"""Settings of the roles: frozen dataclasses, one for each role.

Each field is declared once, with its type, what it means and its default; flags, environment
variables, `--help` and docs/reference/settings.md follow from it (agent.kits.flags). Times are in
seconds unless the name says otherwise, sizes in bytes. A role imports only its own settings.
"""
