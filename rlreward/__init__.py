"""rlreward: reward modelling, RLHF and RL with verifiable rewards in JAX.

Importing the package imports nothing heavy: sub-modules load on first use.
"""

__version__ = "0.1.0"
