"""The version that files are stamped with."""

__version__ = "0.2.0.dev0"
