"""Measure backbones and detectors: time, peak memory, FLOPs, parameters."""

from _checkout import tool

if __name__ == "__main__":
    tool("benchmark")
