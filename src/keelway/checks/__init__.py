"""Model validation for CI: what has to hold of a version before it goes live."""
