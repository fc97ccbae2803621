"""Engines that run the graph of a bundle: no web, no torch."""

import os

# ONNX Runtime reports its use to its makers and keeps a file in the home folder unless told not to,
# before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
