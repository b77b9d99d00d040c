"""`python -m morphojax COMMAND`, the same as `morphojax COMMAND`."""

import sys

from morphojax.cli import main

if __name__ == "__main__":
    sys.exit(main())
