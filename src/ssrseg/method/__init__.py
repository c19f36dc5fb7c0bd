"""The paper as tensor maths: one file per section, no files, no configuration, no state."""
