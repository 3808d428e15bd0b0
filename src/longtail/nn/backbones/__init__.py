"""Backbones, one file each; they know vectors, never ids."""
