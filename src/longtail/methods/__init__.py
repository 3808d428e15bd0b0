"""Methods, one file each: how a backbone is enhanced."""
