"""Evidence: overlays, tables and the report page."""
