"""What a model promises: its signature, what a sample showed (baseline) and what a person declared (constraints)."""
