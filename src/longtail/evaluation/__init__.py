"""Ranks, metrics by group, and the report made of them."""
