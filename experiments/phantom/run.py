"""All that this folder shows of the digital spine but the transfer study: sizes, planes, Hounsfield units."""

import argparse
import os
from pathlib import Path

from hounsfield import draw_histograms, read_tissues, write_table
from measure import measure_seeds
from planes import draw
from rich.progress import track
from scans import DIFFICULTIES, real, simulated

HERE = Path(__file__).parent
LAYOUTS = ("csi2014", "kaggle")


def main() -> None:
    """Make the tables and figures; what shows real scans goes to ``beside_real``, which is not committed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=40, help="subjects whose sizes are measured")
    parser.add_argument("--scans", type=int, default=8, help="simulated scans a difficulty for the histograms")
    parser.add_argument("--output", type=Path, default=HERE)
    parser.add_argument("--real", type=Path, default=os.environ.get("SPINESEG_REAL_CT"), help="folder of real scans")
    options = parser.parse_args()
    output: Path = options.output
    output.mkdir(parents=True, exist_ok=True)
    if options.seeds:
        print(measure_seeds(options.seeds, "default", output))

    shown = {
        layout: [simulated(layout, name, 0) for name in track(DIFFICULTIES, f"planes, {layout}")] for layout in LAYOUTS
    }
    for layout, scans in shown.items():
        draw(scans, output / f"planes_{layout}.png", columns=len(scans))
    theirs = list(real(options.real))
    if theirs:
        default = [scan for scans in shown.values() for scan in scans if scan.name.endswith("default")]
        draw([*default, *theirs], output / "beside_real" / "planes.png", columns=2)

    groups = {
        name: [
            read_tissues(simulated("kaggle", name, index)) for index in track(range(options.scans), f"tissues, {name}")
        ]
        for name in DIFFICULTIES
    }
    write_table(groups, output / "hounsfield.csv")
    draw_histograms(groups, output / "hounsfield.png", f"SIMULATED, {options.scans} scans a difficulty")
    if theirs:
        beside = groups | {scan.name: [read_tissues(scan)] for scan in theirs}
        write_table(beside, output / "beside_real" / "hounsfield.csv")
        draw_histograms(beside, output / "beside_real" / "hounsfield.png", "SIMULATED and real scans")


if __name__ == "__main__":
    main()
