"""How good is it: alignment of maps, Fourier shell correlation and resolution, comparison with a truth."""
