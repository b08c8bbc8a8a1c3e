"""The diversity of one network's weights."""
