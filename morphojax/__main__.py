"""`python -m morphojax COMMAND`, the same as `morphojax COMMAND`."""

from morphojax.cli import script

if __name__ == "__main__":
    script()
