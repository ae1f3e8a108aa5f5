"""Foundations: database, settings, errors, security, telemetry, time."""
