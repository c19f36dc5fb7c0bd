"""Frozen encoders and the trained decoder."""
