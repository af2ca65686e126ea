"""The controller: decides what should exist in the store, starts builds, and deletes.

`decisions` and the rules of policies are pure; `reconcile` reads, decides and acts for one cache at
a time. Builds run in Jobs (agent.build), never in this process.
"""
