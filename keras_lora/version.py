"""The version that files are stamped with."""

__version__ = "0.1.0"
