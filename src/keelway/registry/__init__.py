"""Declared state: which versions of which models exist, where the aliases point, and who changed what, when and why."""
