"""Train-side formats to verified artifacts: convert, prove, keep, register. Nothing here is needed to serve."""
