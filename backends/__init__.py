"""Runtimes that a graph is lowered to, one file each."""
