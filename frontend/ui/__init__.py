"""What the pages of the frontend are made of: an HTTP client of the API, and plain functions."""
