"""Which sdistrib this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("sdistrib")
except PackageNotFoundError:  # run from a checkout that was never installed
    VERSION = "0+unknown"

#: How a program introduces itself on the wire and in pictures.
SOFTWARE = f"sdistrib {VERSION}"
