"""Pure parts that training and serving share: numpy, Pillow, pydantic and the standard library."""
