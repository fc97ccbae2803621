"""Data sets: sources, manifest, decoded cache and the Lightning data module."""
