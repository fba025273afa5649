"""Operators worth a room of their own, used by more than one line of a backbone."""
