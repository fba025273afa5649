"""Samples for training: repeatable ones, bad images replaced, and a check of a data set."""
