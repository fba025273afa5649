"""List, show and download the published models."""

from _checkout import tool

if __name__ == "__main__":
    tool("zoo")
