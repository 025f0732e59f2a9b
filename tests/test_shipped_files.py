"""Every profile and study that ships with the package can be read."""

import tomllib
from importlib import resources

import pytest

from search.device import NUMERIC, list_devices, load_device

STUDIES = [file for file in resources.files("studies").iterdir() if file.name.endswith(".toml")]


@pytest.mark.parametrize("name", list_devices())
def test_profile(name):
    profile = load_device(name)
    assert profile.name == name
    # Only this machine is measured: no number of another device may look as if it had been.
    assert profile.latency == ("local" if name == "x86-1core" else "unmeasured")
    assert profile.sources.keys() == {key for key in NUMERIC if getattr(profile, key) is not None}


def test_the_promised_devices_are_there():
    assert {"x86-1core", "raspberry-pi-4", "cortex-m7", "hearing-aid-dsp"} <= set(list_devices())
    assert load_device("hearing-aid-dsp").max_algorithmic_latency_ms == 10


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.name)
def test_study(file):
    tomllib.loads(file.read_text(encoding="utf-8"))
