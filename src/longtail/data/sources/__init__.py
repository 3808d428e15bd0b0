"""Raw data sets as tables: one file each."""
