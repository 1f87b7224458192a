"""Passes over a trained module: each gives an ordinary module back, smaller or rounded."""
