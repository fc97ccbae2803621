"""Use cases, one file each: what a person asks for."""
