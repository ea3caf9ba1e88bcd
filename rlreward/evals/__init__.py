"""Evaluations that look across samples, runs or models."""
