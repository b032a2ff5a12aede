"""Launchers that a train.sh calls, and what their words mean for a job.

Pure and stdlib only: `dsjob convert` reads with it too.  How a launch is carried out is in `rank`.
"""
