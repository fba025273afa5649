"""Print versions, operators, GPUs and what is wrong: ``python tools/check_env.py``.

The exit code is 1 when something is wrong.
"""

import argparse
import sys

import _checkout  # noqa: F401


def main() -> int:
    """Print the report."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        from models_mm.mmdet2.compat.environment import report
    except ImportError as error:
        print(f"WRONG  {error}")
        return 1
    facts, problems = report()
    for name, value in facts.items():
        print(f"{name:15} {value}")
    for problem in problems:
        print(f"WRONG  {problem}")
    print("" if problems else "everything is in order")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
