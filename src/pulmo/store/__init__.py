"""SQL tables, sessions and migrations."""
