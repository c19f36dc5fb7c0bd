"""The command line: one function per verb, each a thin shell around the Python API.

torch and transformers are imported inside the commands, so that ``--help`` answers at once.
"""

from ssrseg.cli import commands, paper, reproduce  # each registers its commands
from ssrseg.cli.app import app, main

__all__ = ["app", "commands", "main", "paper", "reproduce"]
