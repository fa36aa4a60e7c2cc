"""Equivalent transformations that make rounding easier: y = W·x = (W·diag(s))·(x/s)."""
