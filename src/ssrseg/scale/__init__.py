"""Masks of more images than one process makes: in shards, by any scheduler, and merged."""
