"""Compiled loops and GPU kernels: products, exact sums and distances, the choice of the nearest, hashes."""
