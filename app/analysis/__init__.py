"""Offline analysis: evaluation, fits and simulation studies, without a database."""
