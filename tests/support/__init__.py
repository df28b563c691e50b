"""Servers and kits that only our own tests use."""
