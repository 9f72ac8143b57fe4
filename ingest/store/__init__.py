"""The database, and nothing of HTTP."""
