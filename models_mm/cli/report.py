"""Write a report of a training: one page that a browser shows, without other files.

    models_mm report WORK_DIR

The page WORK_DIR/report.html has the curves, the AP overall, by class and by size, the confusion
matrix, the worst images, samples of the data, costs, environment and config. The best checkpoint is
evaluated on the validation data for it.
"""

from models_mm.cli.command import Parser


def main(argv: list[str] | None = None) -> None:
    """Write the report that the command line asks for."""
    parser = Parser(description=__doc__)
    parser.add_argument("folder", metavar="WORK_DIR", help="work dir of a training")
    parser.add_argument("--device", help="cpu, cuda, cuda:1 ... (default: a GPU if there is one)")
    parser.add_argument("--config", help="of the training (default: the one in WORK_DIR)")
    args = parser.parse_args(argv)

    import matplotlib

    from models_mm.mmdet2.report import write_report

    matplotlib.use("Agg")
    print(write_report(args.folder, args.device, args.config))
