"""The command line: one function per verb, each a thin shell around the Python API.

torch and transformers are imported inside the commands, so that ``--help`` answers at once.
"""

from ssrseg.cli import prepare, seeds, tables, use  # each registers its commands
from ssrseg.cli.base import app, main

__all__ = ["app", "main", "prepare", "seeds", "tables", "use"]
