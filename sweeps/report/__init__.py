"""How runs become an answer: run folders -> table -> figures -> report, and dashboards for those who work online."""
