"""Which folders an attempt may clear, told from their names alone."""

from deepspeed_trainer.checkpoints.names import find_litter, name_checkpoint


def test_a_folder_is_litter_when_no_rank_of_its_attempt_works_on_it() -> None:
    older = [name_checkpoint(5, 1, 9), name_checkpoint(10, 2, 3)]
    newer = [name_checkpoint(10, 2, 4), name_checkpoint(20, 2, 5), name_checkpoint(5, 3, 1)]
    others = ["mine", "step-00000005", "step-00000005-a1-1-copy", "best-step-00000005-a1-1"]
    assert find_litter([*older, *newer, *others], attempt=2, below=4) == older
