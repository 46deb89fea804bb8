"""The kinds of adapter there are."""
