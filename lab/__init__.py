"""The lab: real containerd, registry, images and peers for tests, demo and benchmark.

Development only; nothing in `agent` imports it. Everything it gathers or makes
lies in one git-ignored folder, see `lab.places`. In this folder are the commands that
people run, and what all the rooms beside it use.
"""
