"""``python -m ssrseg``."""

from ssrseg.cli import main

main()
