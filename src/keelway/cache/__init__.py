"""Answers given again: the key (``key.py``), where they are kept (``memory.py``, ``redis.py``) and the stage itself."""
