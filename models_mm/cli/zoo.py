"""The published models: list them, filter them, show one, or write the tables of the documents.

models_mm zoo list                          every row of the five published tables
models_mm zoo list --family mpvit --detector retinanet
models_mm zoo list --all                    every config, published or not
models_mm zoo show mask_rcnn_recnext_m3_fpn_1x_coco
models_mm zoo fetch recnext_m3_distill_300e.pth     download a published file to pretrain/
models_mm zoo readme                        write the tables of README.md and docs/zoo.md
"""

from pathlib import Path

from models_mm.cli.command import Parser
from models_mm.errors import UserError

# Functions of models_mm.catalogue; what each returns stands in a document between two marks.
TABLES = ("results", "variants")
BEGIN, END = "<!-- {}: written by tools/zoo.py readme -->", "<!-- end of {} -->"
DOCUMENTS = ("README.md", "docs/zoo.md")


def main(argv: list[str] | None = None) -> None:
    """List, show, fetch or write, as the command line says."""
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    listing = commands.add_parser("list", help="the rows of the published tables")
    for key in ("family", "detector", "backbone", "schedule"):
        listing.add_argument(f"--{key}", default="", help=f"only rows whose {key} contains this")
    listing.add_argument("--all", action="store_true", help="names of all configs instead")
    one = commands.add_parser("show", help="everything that is known of one row")
    one.add_argument("name")
    file = commands.add_parser("fetch", help="download a published file and check it")
    file.add_argument("name", help="of the file, or of the config that starts from it")
    file.add_argument("--to", default="pretrain", metavar="FOLDER", help="default: pretrain")
    readme = commands.add_parser("readme", help="write the tables of documents")
    readme.add_argument(
        "files", nargs="*", default=DOCUMENTS, help="default: README.md and docs/zoo.md"
    )
    args = parser.parse_args(argv)
    call = {"list": show_list, "show": show_one, "fetch": fetch_one, "readme": write_readme}
    call[args.command](args)


def show_list(args) -> None:
    """Print one line per row of the published tables, or all names of configs."""
    from models_mm.catalogue import catalogue, list_configs

    if args.all:
        if any((args.family, args.detector, args.backbone, args.schedule)):
            raise UserError("--all lists every config: it goes with no other option")
        print("\n".join(list_configs()))
        return
    wanted = {key: plain(getattr(args, key)) for key in ("detector", "backbone", "schedule")}
    rows = [
        entry
        for entry in catalogue()
        if plain(args.family) in plain(entry.family)
        and all(text in plain(entry.metadata[key.title()]) for key, text in wanted.items())
    ]
    if not rows:
        raise UserError("no published row is like that; `python tools/zoo.py list` shows them all")
    width = max(len(entry.name) for entry in rows)
    print(f"{'config':{width}}  box AP  mask AP  pretrained file")
    for entry in rows:
        box, mask = (entry.metrics.get(key, "-") for key in ("box AP", "mask AP"))
        print(f"{entry.name:{width}}  {box:>6}  {mask:>7}  {entry.metadata['Pretrained File']}")


def plain(text: str) -> str:
    """A name as people type it: Mask R-CNN, mask_rcnn and MaskRCNN are one."""
    return "".join(c for c in text.lower() if c.isalnum() or c == "+")


def show_one(args) -> None:
    """Print the metafile's entry of a row and of its family."""
    import yaml

    from models_mm.catalogue import get_entry

    entry = get_entry(args.name)
    facts = {"Config": entry.config, **entry.metadata, "Published": entry.metrics}
    if entry.weights:
        facts["Weights"] = entry.weights
    facts |= {key: value for key, value in entry.collection.items() if key != "Metadata"}
    print(yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=100), end="")


def fetch_one(args) -> None:
    """Download a file, unless it is there."""
    from models_mm.catalogue import catalogue, fetch_published

    rows = {entry.name: entry.metadata["Pretrained File"] for entry in catalogue()}
    print(fetch_published(rows.get(args.name, args.name), args.to))


def write_readme(args) -> None:
    """Write the tables between their marks, in each file that is given."""
    for path in map(Path, args.files):
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path} cannot be read: {error}") from error
        path.write_text(with_tables(text, path))


def with_tables(text: str, path: Path) -> str:
    """The text of a document with its tables written anew.

    Raises:
        UserError: the document has no marks of a table, or one mark of a pair only.
    """
    from models_mm import catalogue

    found = [name for name in TABLES if BEGIN.format(name) in text]
    for name in found or TABLES:
        before, begin, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        if not end:
            raise UserError(f"{path} lacks the marks {BEGIN} and {END}".format(name, name))
        text = f"{before}{begin}\n\n{getattr(catalogue, name)()}\n\n{end}{after}"
    return text
