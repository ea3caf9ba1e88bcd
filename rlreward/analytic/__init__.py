"""Closed forms and exact laws, in float64 where JAX has it switched on."""
