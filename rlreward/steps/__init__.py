"""Builders of jitted steps."""
