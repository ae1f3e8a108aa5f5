"""Measurements, with the commands that made the tables of docs/benchmarks.md."""
