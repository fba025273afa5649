"""Print what is installed and what is wrong with it."""

from _checkout import tool

if __name__ == "__main__":
    tool("check_env")
