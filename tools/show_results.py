"""Draw predicted boxes and masks beside the true ones."""

from _checkout import tool

if __name__ == "__main__":
    tool("show_results")
