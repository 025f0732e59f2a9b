"""Every profile and study that ships with the package can be read."""

from importlib import resources
from pathlib import Path

import pytest

from search.device import NUMERIC, list_devices, load_device
from search.study import ALONE, read_study

STUDIES = [file for file in resources.files("studies").iterdir() if file.name.endswith(".toml")]


@pytest.mark.parametrize("name", list_devices())
def test_profile(name):
    profile = load_device(name)
    assert profile.name == name
    # Only this machine is measured: no number of another device may look as if it had been.
    assert profile.latency == ("local" if name.startswith("x86-1core") else "unmeasured")
    assert profile.sources.keys() == {key for key in NUMERIC if getattr(profile, key) is not None}


def test_the_promised_devices_are_there():
    assert {"x86-1core", "raspberry-pi-4", "cortex-m7", "hearing-aid-dsp"} <= set(list_devices())
    assert load_device("hearing-aid-dsp").max_algorithmic_latency_ms == 10


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_study(file):
    study = read_study(Path(str(file)))
    assert study.name == file.name.removesuffix(".toml")
    load_device(study.device)
    assert set(ALONE) & set(study.space["distill.schedule.kind"].choice), "students without a teacher are in the race"
