"""The page of ``ssrseg review``: masks looked at, corrected and decided on by a person."""
