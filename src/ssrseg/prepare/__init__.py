"""Make data sets ready: download, unpack, check, convert."""
