"""Running the points of a sweep."""
