import subprocess
import sys

import pytest

from search.device import DeviceProfile, check_fits, list_devices, load_device, require_measurable
from search.record import Cost
from sekd.errors import InputError

SMALL = Cost(parameters=1, macs_per_s=1e6, weight_bytes=1024, state_bytes=1024, algorithmic_latency_ms=8)
PROFILE = 'name = "mine"\ndescription = "x"\nlatency = "local"\n'


def _write(folder, text):
    path = folder / "mine.toml"
    path.write_text(PROFILE + text)
    return path


def test_a_path_and_a_name_both_load(tmp_path):
    assert load_device("cortex-m7").memory_kib == 320
    path = _write(tmp_path, "memory_kib = 4\ncores = [1]\n[sources]\nmemory_kib = 'a'\ncores = 'b'\n")
    assert (load_device(path).memory_kib, load_device(str(path)).cores) == (4, (1,))


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(InputError, match="unknown device 'rasperry-pi4'; did you mean 'raspberry-pi-4'?"):
        load_device("rasperry-pi4")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("memory_kib = 4", "no source for memory_kib"),
        ("threads = 1\n[sources]\nthreads = ' '", "no source for threads"),
        ("memory_kb = 4", "unknown key 'memory_kb'; did you mean 'memory_kib'"),
        ("memory_kib = -1\n[sources]\nmemory_kib = 'a'", "'memory_kib' = -1"),
        ("memory_kib = nan\n[sources]\nmemory_kib = 'a'", "'memory_kib' = nan"),
        ("memory_kib = 1\n[sources]\nmemory_kib = 'a'\nflash = 'b'", "source of 'flash'"),
    ],
)
def test_a_wrong_profile_is_one_line_that_names_the_key(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        load_device(_write(tmp_path, text))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_name_is_that_of_the_file(tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(PROFILE)
    with pytest.raises(InputError, match="must equal the file's name, 'other'"):
        load_device(other)


def test_a_latency_budget_needs_a_device_that_can_be_measured():
    require_measurable(load_device("x86-1core"))
    with pytest.raises(InputError, match="'hearing-aid-dsp': latency cannot be measured yet"):
        require_measurable(load_device("hearing-aid-dsp"))


def _broken(profile, **changes):
    operators = changes.pop("operators", ())
    extra = {key: changes.pop(key) for key in ("weight_bytes", "activation_bytes") if key in changes}
    cost = SMALL.model_copy(update=changes)
    return {v.key: (v.value, v.limit) for v in check_fits(profile, cost, operators=operators, **extra)}


def test_each_limit_binds_just_above_itself():
    aid = load_device("hearing-aid-dsp")
    at_limit = {"state_bytes": 128 * 1024, "weight_bytes": 200 * 1024, "algorithmic_latency_ms": 10.0}
    assert _broken(aid, **at_limit, macs_per_s=21e6) == {}
    assert _broken(aid, state_bytes=129 * 1024) == {"memory_kib": (129, 128)}
    assert _broken(aid, activation_bytes=128 * 1024) == {"memory_kib": (129, 128)}
    assert _broken(aid, weight_bytes=201 * 1024) == {"flash_kib": (201, 200)}
    assert _broken(aid, algorithmic_latency_ms=32.0) == {"algorithmic_latency_ms": (32, 10)}
    assert _broken(aid, macs_per_s=22e6) == {"macs_per_s": (22e6, 21e6)}


def test_operators_that_the_runtime_lacks_are_named():
    npu = load_device("cortex-m55-ethos-u55")
    broken = _broken(npu, operators=["Conv", "GRU", "GRU", "LayerNormalization"])
    assert broken == {"operator.GRU": (2, 0), "operator.LayerNormalization": (1, 0)}


def test_limits_that_are_absent_do_not_bind():
    free = DeviceProfile(name="a", description="b", latency="local")
    assert _broken(free, state_bytes=10**9, macs_per_s=1e15, operators=["GRU"]) == {}


def test_reading_devices_loads_neither_torch_nor_onnxruntime():
    code = "import search.device, sys; print({'torch', 'onnxruntime', 'onnx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
    assert "x86-1core" in list_devices()


def test_a_profile_travels_to_a_worker_with_its_defaults_written_out():
    profile = DeviceProfile(name="a", description="b", latency="local")
    assert DeviceProfile.model_validate_json(profile.model_dump_json()) == profile
    with pytest.raises(ValueError, match="no source for threads"):
        DeviceProfile(name="a", description="b", latency="local", threads=2)
