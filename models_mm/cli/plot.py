"""Plot losses, learning rate and AP of one or several runs into one picture."""

from models_mm.cli.command import Parser
from models_mm.values import plot_file


def main(argv: list[str] | None = None) -> None:
    """Plot as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("logs", nargs="+", metavar="LOG.json", help="WORK_DIR/<time>.log.json")
    parser.add_argument(
        "--out", type=plot_file, default="curves.png", help="picture (default: %(default)s)"
    )
    args = parser.parse_args(argv)

    from models_mm.visualization.curves import plot_logs

    plot_logs(args.logs, args.out)
    print(f"curves: {args.out}")
