"""Entry point of `sdistrib-manager`."""

from sdistrib_manager.cli import command


def main() -> None:
    """Run the command."""
    command()


if __name__ == "__main__":
    main()
