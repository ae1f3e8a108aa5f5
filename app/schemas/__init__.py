"""Requests and replies as they are sent; unknown fields are refused."""
