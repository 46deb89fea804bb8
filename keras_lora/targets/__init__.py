"""Which layers a name, a pattern, a block or a placement means."""
