"""python -m morphojax.data.sources.synthetic --output=DIR --subjects=N [--seed=S] [--workers=W]"""

import argparse
import sys
from pathlib import Path

from morphojax.data.sources.base import CohortError
from morphojax.data.sources.synthetic import generate


def main() -> int:
    parser = argparse.ArgumentParser(prog="morphojax.data.sources.synthetic", description="Make the synthetic cohort.")
    parser.add_argument("--output", type=Path, required=True, help="an empty folder, or a cohort to grow")
    parser.add_argument("--subjects", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=None, help="processes; by default one per core")
    flags = parser.parse_args()
    try:
        print(generate(flags.output, flags.subjects, flags.seed, flags.workers))
    except (CohortError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
