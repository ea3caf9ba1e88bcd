"""Neural networks: the only importers of flax.linen."""
