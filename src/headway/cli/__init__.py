"""The command line: parses, wires and prints; alone in reading the environment."""


def main() -> None:
    """Run the command line."""
    raise SystemExit(2)
