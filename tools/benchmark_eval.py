"""Measure COCO's evaluation: the numbers of each engine and its time."""

from _checkout import tool

if __name__ == "__main__":
    tool("benchmark_eval")
