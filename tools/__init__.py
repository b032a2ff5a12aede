"""Programs for contributors: set-up, generators, the demo and the test runs."""
