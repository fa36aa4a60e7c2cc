"""Ranges and moments of activations, gathered over calibration data in bounded memory."""
