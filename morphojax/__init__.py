"""morphojax: what a biobank knows about a heart's shape, put to work in segmenting it."""

__version__ = "0.1.0"
