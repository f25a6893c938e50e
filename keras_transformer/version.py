"""The version, read by the package and by setup.cfg."""

__version__ = "0.1.0"
