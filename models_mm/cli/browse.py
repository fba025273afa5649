"""Draw the training data as the model sees it: after all augmentation, with its boxes and masks."""

from models_mm.cli.command import Parser, add_overrides
from models_mm.values import SEED, option, picture_file, whole_option


def main(argv: list[str] | None = None) -> None:
    """Draw as the command line says."""
    parser = Parser(description=__doc__)
    parser.add_argument("config", help="config of a training")
    parser.add_argument(
        "--out", type=picture_file, default="samples.png", help="picture (default: %(default)s)"
    )
    parser.add_argument(
        "--number",
        type=whole_option(1, 1000),
        default=4,
        help="number of images (default: %(default)s)",
    )
    parser.add_argument(
        "--draws",
        type=whole_option(1, 1000),
        default=3,
        help="draws of each image (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=option(SEED, int),
        default=0,
        help="another seed gives other draws (default: %(default)s)",
    )
    add_overrides(parser)
    args = parser.parse_args(argv)

    from models_mm.mmdet2.building import build_data
    from models_mm.mmdet2.configs import check_files, load_config
    from models_mm.mmdet2.pictures import draw_samples
    from models_mm.mmdet2.settings import check_settings

    cfg = load_config(args.config, args.cfg_options)
    cfg.model = {}  # no weights are needed
    check_settings(cfg, ("train",))
    check_files(cfg, ("train",))
    dataset = build_data(cfg.data.train, "train")
    print(draw_samples(dataset, args.out, args.number, args.draws, args.seed))
