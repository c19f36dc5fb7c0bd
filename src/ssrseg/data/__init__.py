"""Images and their image-level labels. Masks are only ever read to score a result."""
