"""Text encoders, one file each: a module here registers itself under the prefix of its model names."""
