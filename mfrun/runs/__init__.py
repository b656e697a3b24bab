"""One run: its folder, how it stands, where its metrics go, how it shows itself, what stops it."""
