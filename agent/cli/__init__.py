"""The commands that people run. A folder for each subject.

`*_commands` modules declare commands with their flags and help, and import what does the work only
when the command runs, so that `--help` is quick. Rules that other programs need do not belong here.
"""
