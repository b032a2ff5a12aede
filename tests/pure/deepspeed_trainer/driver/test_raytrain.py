"""Ray Train never finds a run of its own to go on with: every group of workers has a new one."""

import itertools

import pytest

from deepspeed_trainer.driver.raytrain import name_run, ray_folder
from tests.pure.deepspeed_trainer.makers import a_contract


@pytest.mark.parametrize("storage", ["/mnt/dsjob", "s3://bucket/runs", None])
@pytest.mark.parametrize("name", ["ray", "bert"])
def test_no_group_of_workers_finds_what_ray_wrote_for_another(
    storage: str | None, name: str
) -> None:
    groups = [
        ray_folder(a_contract(storage=storage, attempt=attempt, submission_id=f"a{attempt}"))
        / name_run(name, restart)
        for attempt, restart in itertools.product((1, 2, 3), (0, 1, 2))
    ]
    assert len(set(groups)) == len(groups)
