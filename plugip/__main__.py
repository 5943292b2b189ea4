"""Runs plugip as `python -m plugip`."""

from plugip.cli import main

main()
