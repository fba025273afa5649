"""Show what a detector gets wrong: COCO's error analysis and the confusion matrix, as pictures.

    python tools/analyze_results.py CONFIG RESULTS.pkl --out FOLDER

RESULTS.pkl is what tools/test.py --out wrote. The error analysis draws precision over recall as it
would be if errors were forgiven one kind after the other: C75, C50 (IoU), Loc (position), Sim
(classes of one supercategory), Oth (any class), BG (background), FN (what is missed).
"""

from pathlib import Path

import _checkout  # noqa: F401  isort: skip
import matplotlib

from models_mm.cli.command import OVERRIDE_HELP, Parser, run
from models_mm.mmdet2.analysis import confusion_matrix, error_analysis
from models_mm.mmdet2.building import build_data
from models_mm.mmdet2.configs import check_files, load_config
from models_mm.mmdet2.overrides import DictAction
from models_mm.mmdet2.result_files import load_results
from models_mm.mmdet2.settings import check_settings
from models_mm.values import SCORE, output_folder


def main() -> None:
    """Analyse as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of the tested detector")
    parser.add_argument("results", metavar="RESULTS.pkl", help="what tools/test.py --out wrote")
    parser.add_argument(
        "--out", type=output_folder, default="analysis", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=SCORE, default=0.3, help="of the confusion matrix (%(default)s)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help=OVERRIDE_HELP
    )
    args = parser.parse_args()
    matplotlib.use("Agg")
    cfg = load_config(args.config, args.cfg_options)
    check_settings(cfg, ("test",))
    check_files(cfg, ("test",))
    dataset = build_data(cfg.data.test, "test", dict(test_mode=True))
    results = load_results(args.results, dataset)
    pictures = [confusion_matrix(dataset, results, Path(args.out), args.score_thr)]
    pictures += error_analysis(dataset, results, Path(args.out))
    print("\n".join(map(str, pictures)))


if __name__ == "__main__":
    run(main)
