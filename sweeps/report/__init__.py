"""`symbreak report`: run folders -> table -> figures and sentences -> one page."""
