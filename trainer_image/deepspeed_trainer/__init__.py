"""The trainer: what runs in the pods of a DeepSpeedJob.

`contract` is shared with the operator; everything else runs in the trainer image alone: `driver` is
the Ray job, `board` knows all ranks, `rank` is one of them, `hooks` look into the user's program.
"""
