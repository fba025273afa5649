"""Plot losses, learning rate and AP of one or several runs into one picture."""

from _checkout import tool

if __name__ == "__main__":
    tool("plot_logs")
