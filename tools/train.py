"""Train a detector: ``python tools/train.py CONFIG [options]``; ``--help`` lists them."""

from _checkout import tool

if __name__ == "__main__":
    tool("train")
