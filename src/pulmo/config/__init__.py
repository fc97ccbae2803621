"""Configuration: the typed schema, Hydra composition and the settings of the environment."""
