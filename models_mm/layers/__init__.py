"""Operators that more than a line of PyTorch stands behind, each usable alone."""
