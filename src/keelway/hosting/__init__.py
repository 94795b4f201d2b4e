"""From declared state to loaded, warmed models: sources of releases, loading, and the fleet that converges on them."""
