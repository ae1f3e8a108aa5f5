"""The engine: arrays in, arrays out. No clock, no hidden randomness, no input or output (docs/models.md)."""
