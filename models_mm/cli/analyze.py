"""Show what a detector gets wrong: COCO's error analysis and the confusion matrix, as pictures.

    models_mm analyze CONFIG RESULTS.pkl --out FOLDER

RESULTS.pkl is what `models_mm test --out` wrote. The error analysis draws the precision over the
recall, and how it would rise if one kind of error after the other were forgiven: C75, C50 (IoU),
Loc (position), Sim (classes of one supercategory), Oth (any class), BG (background), FN (missed
objects).
"""

from pathlib import Path

from models_mm.cli.command import Parser, add_overrides
from models_mm.cli.show import load_tested
from models_mm.values import SCORE, output_folder


def main(argv: list[str] | None = None) -> None:
    """Analyse as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of the tested detector")
    parser.add_argument("results", metavar="RESULTS.pkl", help="what `models_mm test --out` wrote")
    parser.add_argument(
        "--out", type=output_folder, default="analysis", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr",
        type=SCORE,
        default=0.3,
        help="lowest score in the confusion matrix (default: %(default)s)",
    )
    add_overrides(parser)
    args = parser.parse_args(argv)

    import matplotlib

    from models_mm.mmdet2.analysis import confusion_matrix, error_analysis

    matplotlib.use("Agg")
    dataset, results = load_tested(args.config, args.results, args.cfg_options)
    pictures = [confusion_matrix(dataset, results, Path(args.out), args.score_thr)]
    pictures += error_analysis(dataset, results, Path(args.out))
    print("\n".join(map(str, pictures)))
