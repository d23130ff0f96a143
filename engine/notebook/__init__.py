"""What a notebook calls: a lazy cube, and the kernels of a run on arrays of xarray."""
