"""Pulmo: from a folder of labelled images to a tested, watched, replaceable classifier service."""

__version__ = "0.1.0"
