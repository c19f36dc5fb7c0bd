"""The demo world: procedural scenes, the small encoders trained on them, and their weights."""
