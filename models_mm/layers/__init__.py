"""Operators that need more than a line of PyTorch; each can be used alone."""
