"""From the responses of a course to its parameters."""
