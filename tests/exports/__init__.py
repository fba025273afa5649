"""The export of every published detector, and of trained ones."""
