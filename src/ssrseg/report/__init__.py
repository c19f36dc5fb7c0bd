"""Pages that show what a run has made: one HTML file, without a network."""
