"""Vectors to vectors: batches, item views, fusion, losses and backbones."""
