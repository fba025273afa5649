"""Draw a small instance segmentation data set in the layout of COCO 2017."""

from _checkout import tool

if __name__ == "__main__":
    tool("make_demo_coco")
