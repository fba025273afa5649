"""Plot losses, learning rate and AP of one or several runs into one picture."""

import _checkout  # noqa: F401  isort: skip
from models_mm.cli.command import Parser, run
from models_mm.values import plot_file
from models_mm.visualization.curves import plot_logs


def main() -> None:
    """Plot as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("logs", nargs="+", metavar="LOG.json", help="WORK_DIR/<time>.log.json")
    parser.add_argument(
        "--out", type=plot_file, default="curves.png", help="picture (default: %(default)s)"
    )
    args = parser.parse_args()
    plot_logs(args.logs, args.out)
    print(f"curves: {args.out}")


if __name__ == "__main__":
    run(main)
