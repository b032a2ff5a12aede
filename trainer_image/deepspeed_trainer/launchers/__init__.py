"""Launchers that a train.sh calls, and what their words mean for a job.

Pure and without torch, so that a tool beside the cluster can read with it.  How a launch is carried
out is in `rank`.
"""
