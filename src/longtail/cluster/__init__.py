"""Work over a cluster by ray, which places, restarts and replicates; the only files of longtail that import it."""
