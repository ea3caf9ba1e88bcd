"""A run directory as one HTML page that needs nothing else."""
