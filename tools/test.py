"""Test a detector: ``python tools/test.py CONFIG CHECKPOINT --eval bbox segm [options]``."""

from _checkout import tool

if __name__ == "__main__":
    tool("test")
