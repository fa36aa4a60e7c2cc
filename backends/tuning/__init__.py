"""Search for the fastest plan of a model on this machine, and remember what was found."""
