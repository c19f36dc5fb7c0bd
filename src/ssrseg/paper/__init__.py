"""Reproduction of the paper: tables, figures, ablations; nothing below imports it."""
