"""The adapter file: its format, saving, loading, combining."""
