"""Print versions, operators, GPUs, and what is wrong with this installation.

The exit code is 1 when something is wrong. An installation without MMDetection is not wrong: it
creates backbones and reads checkpoints, and does not train.
"""

from models_mm.cli.command import Parser


def main(argv: list[str] | None = None) -> None:
    """Print the report.

    Raises:
        SystemExit: with 1, something is wrong.
    """
    Parser(description=__doc__).parse_args(argv)
    try:
        from models_mm.mmdet2.compat.environment import report
    except ImportError as error:
        print(f"WRONG  {error}")
        raise SystemExit(1) from error
    facts, problems = report()
    for name, value in facts.items():
        print(f"{name:15} {value}")
    for problem in problems:
        print(f"WRONG  {problem}")
    print("" if problems else "everything is in order")
    if problems:
        raise SystemExit(1)
