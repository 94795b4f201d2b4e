"""Rows of several requests in one run of a model: which may share one (``policy.py``), and the run (``turn.py``)."""
