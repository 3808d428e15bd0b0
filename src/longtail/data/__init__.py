"""Tables to ids, histories, splits and groups. Polars and numpy only; nothing here imports torch."""
