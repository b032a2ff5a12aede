"""What other ways of starting a training say, as a DeepSpeedJob; the rooms of `dsjob convert`."""
