"""Draw predicted boxes and masks beside the true ones, from what `models_mm test --out` wrote."""

from models_mm.cli.command import Parser, add_overrides
from models_mm.values import SCORE, output_folder, whole_option


def main(argv: list[str] | None = None) -> None:
    """Draw as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of the tested detector")
    parser.add_argument("results", metavar="RESULTS.pkl", help="what `models_mm test --out` wrote")
    parser.add_argument(
        "--out", type=output_folder, default="pictures", help="folder (default: %(default)s)"
    )
    parser.add_argument(
        "--number", type=whole_option(1), default=8, help="number of images (default: %(default)s)"
    )
    parser.add_argument(
        "--score-thr", type=SCORE, default=0.3, help="lowest score drawn (default: %(default)s)"
    )
    add_overrides(parser)
    args = parser.parse_args(argv)

    from models_mm.mmdet2.pictures import draw_comparisons

    dataset, results = load_tested(args.config, args.results, args.cfg_options)
    for path in draw_comparisons(dataset, results, args.out, args.number, args.score_thr):
        print(path)


def load_tested(config: str, results: str, overrides: dict | None):
    """The test data of a config, and the results that were computed for it.

    Raises:
        UserError: one of them cannot be read, or they do not belong together.
    """
    from models_mm.mmdet2.building import build_data
    from models_mm.mmdet2.configs import check_files, load_config
    from models_mm.mmdet2.result_files import load_results
    from models_mm.mmdet2.settings import check_settings

    cfg = load_config(config, overrides)
    check_settings(cfg, ("test",))
    check_files(cfg, ("test",))
    dataset = build_data(cfg.data.test, "test", dict(test_mode=True))
    return dataset, load_results(results, dataset)
