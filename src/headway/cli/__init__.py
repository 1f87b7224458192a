"""The command line: parses, wires and prints; alone in reading the environment."""

from headway.cli.app import main

__all__ = ["main"]
