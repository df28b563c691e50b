"""Where tasks live: `base.TaskStore` is the seam, one file per database beside it."""
