"""Papers: one file each, a choice at one or more stages of the pipeline."""
