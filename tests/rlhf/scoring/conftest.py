from test_score_file import work  # noqa: F401 (a fixture of other modules, too)
