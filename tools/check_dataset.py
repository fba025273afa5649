"""Find everything that is wrong with a data set before a training reads it."""

from _checkout import tool

if __name__ == "__main__":
    tool("check_dataset")
