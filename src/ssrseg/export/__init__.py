"""Masks for other programs: one module per format, and one table of formats in ``formats``."""
