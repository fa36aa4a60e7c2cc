"""What the pass `quantize` is made of: number formats, calibration, weight rounding, placement."""
