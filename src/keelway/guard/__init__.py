"""Who and what may pass: permits before anything is parsed, values before anything is run."""
