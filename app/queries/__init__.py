"""Statements of SQL and nothing else: rows in, rows out."""
