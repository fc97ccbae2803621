"""Engines that run the graph of a bundle: no web, no torch."""
