"""Settings: what is allowed, and that every mistake is one clear sentence."""

import pytest

from deepspeed_operator.settings import SettingInvalid, Settings, read_settings

LEAST = {"DSJOB_NAMESPACE": "dsjob-system", "DSJOB_TRAINER_IMAGE": "trainer:1"}


def test_the_least_environment_gives_the_documented_defaults() -> None:
    assert read_settings(LEAST) == Settings("dsjob-system", "trainer:1")


def test_each_variable_is_read() -> None:
    found = read_settings(
        {
            **LEAST,
            "DSJOB_INJECTOR_IMAGE": "operator:1",
            "DSJOB_WATCH_NAMESPACES": " team-a, team-b,team-a,",
            "DSJOB_PROGRESS_INTERVAL_SECONDS": "5",
            "DSJOB_CAPACITY_CHECK": "False",
            "DSJOB_HEALTH_PORT": "9000",
            "DSJOB_WORKERS": "2",
            "DSJOB_LOG_LEVEL": "debug",
            "DSJOB_LOG_FORMAT": "text",
        }
    )
    assert found == Settings(
        namespace="dsjob-system",
        trainer_image="trainer:1",
        injector_image="operator:1",
        watch_namespaces=("team-a", "team-b"),
        progress_interval_s=5,
        capacity_check=False,
        health_port=9000,
        workers=2,
        log_level="DEBUG",
        log_format="text",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DSJOB_NAMESPACE", ""),
        ("DSJOB_NAMESPACE", "Not_A_Name"),
        ("DSJOB_TRAINER_IMAGE", " "),
        ("DSJOB_WATCH_NAMESPACES", "a,b c"),
        ("DSJOB_PROGRESS_INTERVAL_SECONDS", "0"),
        ("DSJOB_PROGRESS_INTERVAL_SECONDS", "1.5"),
        ("DSJOB_CAPACITY_CHECK", "yes"),
        ("DSJOB_HEALTH_PORT", "70000"),
        ("DSJOB_WORKERS", "many"),
        ("DSJOB_LOG_LEVEL", "LOUD"),
        ("DSJOB_LOG_FORMAT", "xml"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid) as caught:
        read_settings({**LEAST, name: value})
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
