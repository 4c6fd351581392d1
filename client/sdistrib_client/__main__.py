"""Entry point of the command `sdistrib-client`."""

from sdistrib_client.cli.commands import cli


def main() -> None:
    """Run the command line and exit."""
    cli.main()


if __name__ == "__main__":
    main()
