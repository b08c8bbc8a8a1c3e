"""`symbreak record`: a sweep's runs as one small folder of tables, figures and provenance, fit for the repository."""
