"""The fleet folder: what sites have in common stands in one file, what a site has of its own in another."""
