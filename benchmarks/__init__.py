"""Measurements of keelway beside its alternatives, in the same run, on the same machine. ``make bench`` runs them."""
