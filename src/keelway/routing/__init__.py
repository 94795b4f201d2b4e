"""Which version of which model answers: the immutable snapshot that the request line reads."""
