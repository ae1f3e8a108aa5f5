"""Learners who live by rules of their own, to try practice policies on; nothing here runs in the service."""
