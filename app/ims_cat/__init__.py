"""1EdTech Computer Adaptive Testing 1.0: its routes, schemas and sections."""
