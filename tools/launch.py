"""Start a tool in several processes: ``python tools/launch.py PROCESSES TOOL [arguments]``."""

from _checkout import tool

if __name__ == "__main__":
    tool("launch")
