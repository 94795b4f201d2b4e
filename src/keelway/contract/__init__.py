"""What a model promises: its signature, what a sample showed of it (baseline) and what a person declared (constraints)."""
