"""Experiments around LeaP: what it is to be compared with."""
