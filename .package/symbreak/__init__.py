"""How identical features become different: symmetric networks, what breaks them, and instruments that watch it.

The sub-packages are the four folders at the top of the repository; this one only gives them a common name.
"""
