"""Pure numerics: arrays in, numbers out. Knows nothing of models, requests or files."""
