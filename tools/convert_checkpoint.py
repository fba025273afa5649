"""Say what a checkpoint is, convert it, publish it."""

from _checkout import tool

if __name__ == "__main__":
    tool("convert_checkpoint")
