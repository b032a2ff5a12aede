"""The trainer: what runs in the pods of a DeepSpeedJob.

`contract` is shared with the operator; everything else runs in the trainer image alone.
"""
