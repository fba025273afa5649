"""``python -m models_mm``: the console command."""

from models_mm.cli.main import main

main()
