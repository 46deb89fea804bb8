"""Bottlenecks on or beside a layer."""
