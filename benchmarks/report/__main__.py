"""Draws all results of a folder: `report.html` and PNGs in it.

python -m benchmarks.report
python -m benchmarks.report benchmarks/results/model_speed
"""

from __future__ import annotations

import argparse
from pathlib import Path

from appliance.errors import ApplianceError
from benchmarks.measurement import RESULTS_DIR
from benchmarks.report.page import write_page


def main() -> None:
    """Draws."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description="Draws the results of benchmarks."
    )
    parser.add_argument(
        "folder", type=Path, nargs="?", default=RESULTS_DIR / "latest", help="with results"
    )
    try:
        page = write_page(parser.parse_args().folder)
    except ApplianceError as error:
        parser.error(str(error))
    print(f"wrote {page}")


if __name__ == "__main__":
    main()
