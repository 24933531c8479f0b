"""Trains one arm of one run and prints its record as a line of JSON: a process of its own for each."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from pathlib import Path

from esper.errors import ConfigError
from esper.leyline import encode
from pretrained_networks import Missing
from strangers_runs import ARMS, MISSING, RUNS, Folders, trained


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=list(RUNS))
    parser.add_argument("arm", choices=list(ARMS))
    parser.add_argument("seed", type=int)
    parser.add_argument("--fashion", type=Path)
    parser.add_argument("--speeches", type=Path)
    options = parser.parse_args()
    logging.getLogger("esper").setLevel(logging.CRITICAL)
    try:
        run = RUNS[options.name](Folders(options.fashion, options.speeches))
    except (Missing, ConfigError) as missing:
        print(missing, file=sys.stderr)
        return MISSING
    print(json.dumps(encode(trained(run, options.name, options.arm, options.seed))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
