"""A method put into a model in place, and taken out again."""
