"""Battles made of a table of scores, as a file for `pilot pretrain preferences`.

    python benchmarks/table_battles.py TABLE.parquet votes.parquet
    pilot pretrain preferences votes.parquet --out prior.npz --method triplet

At most ten random pairs of models a prompt; the higher score wins, equal scores tie.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from head_to_head import from_file
from studies.stage import Material, Stage
from studies.votes import battles_of, frame

from worker.errors import UsageError


def main() -> int:
    """Write the battles of all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        table, splits = from_file(arguments.table, 1)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    rows = np.arange(len(table.prompts))
    stage = Stage(Material(table, np.zeros((len(rows), 1)), "none", splits, 1.0), 0, 0, 1.0)
    frame(battles_of(stage, rows)[0]).to_parquet(arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
