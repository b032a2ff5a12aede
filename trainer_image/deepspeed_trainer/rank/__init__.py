"""One rank, and the supervisor beside it: environment, process, ear, line to the board."""
