"""Files that a person copies to a cluster: they can be read by what they are for."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from search.cli import main

ROOT = Path(__file__).parent.parent
SLURM, CLUSTER, PAGE = ROOT / "examples/slurm-ray.sh", ROOT / "examples/ray-cluster.yaml", ROOT / "docs/clusters.md"


def test_the_cluster_file_keeps_to_rays_schema():
    import jsonschema
    import ray.autoscaler
    import yaml

    document = yaml.safe_load(CLUSTER.read_text())
    jsonschema.validate(document, json.loads((Path(ray.autoscaler.__path__[0]) / "ray-schema.json").read_text()))
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert not ray_options(" ".join(document[commands])) - known_to_ray()


def test_the_slurm_script_is_one():
    subprocess.run(["bash", "-n", SLURM], check=True)
    assert not ray_options(SLURM.read_text().replace("\\\n", " ")) - known_to_ray()


def ray_options(text):
    return {name for call in re.findall(r"ray start ([^\n&]*)", text) for name in re.findall(r"--[a-z-]+", call)}


def known_to_ray():
    from ray.scripts.scripts import start

    return {name for option in start.params for name in option.opts}


def test_options_of_ours_exist(capsys):
    with pytest.raises(SystemExit):
        main(["launch", "--help"])
    told = capsys.readouterr().out
    used = set()
    for file in (SLURM, CLUSTER, PAGE):
        for call in re.findall(r"sekd launch ([^\n&`#]*)", file.read_text()):
            used |= set(re.findall(r"--[a-z-]+", call))
    assert used >= {"--backend", "--address"} and all(option in told for option in used | {"--ray-storage"})
