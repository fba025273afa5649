"""Kills, broken data sets, hostile files and wrong command lines by the hundred."""
