"""Pure functions on arrays: sampled estimators, losses, reductions."""
