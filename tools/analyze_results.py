"""Show what a detector gets wrong: error analysis and confusion matrix, as pictures."""

from _checkout import tool

if __name__ == "__main__":
    tool("analyze_results")
