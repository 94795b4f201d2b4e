"""Services that may be away: how one is asked so that it costs milliseconds, whatever it does."""
