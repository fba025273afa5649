"""Draw predicted boxes and masks beside the true ones, from the results of tools/test.py --out."""

import _checkout  # noqa: F401  isort: skip

from models_mm.cli.command import OVERRIDE_HELP, Parser, run
from models_mm.mmdet2.building import build_data
from models_mm.mmdet2.configs import check_files, load_config
from models_mm.mmdet2.overrides import DictAction
from models_mm.mmdet2.pictures import draw_comparisons
from models_mm.mmdet2.result_files import load_results
from models_mm.mmdet2.settings import check_settings
from models_mm.values import SCORE, output_folder, whole_option


def main() -> None:
    """Draw as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of the tested detector")
    parser.add_argument("results", metavar="RESULTS.pkl", help="what tools/test.py --out wrote")
    parser.add_argument(
        "--out", type=output_folder, default="pictures", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--number", type=whole_option(1), default=8, help="images (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=SCORE, default=0.3, help="lowest score drawn (default: %(default)s)"
    )
    parser.add_argument(
        "--cfg-options", nargs="+", action=DictAction, metavar="KEY=VALUE", help=OVERRIDE_HELP
    )
    args = parser.parse_args()
    cfg = load_config(args.config, args.cfg_options)
    check_settings(cfg, ("test",))
    check_files(cfg, ("test",))
    dataset = build_data(cfg.data.test, "test", dict(test_mode=True))
    results = load_results(args.results, dataset)
    for path in draw_comparisons(dataset, results, args.out, args.number, args.score_thr):
        print(path)


if __name__ == "__main__":
    run(main)
