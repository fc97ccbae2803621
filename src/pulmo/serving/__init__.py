"""The HTTP API: any bundle, answered by FastAPI."""
