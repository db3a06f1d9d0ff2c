"""Job scripts hang together, and what a compiled step costs is counted right."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import compiled_costs
import jax
import jax.numpy as jnp
import paper
import pytest
import yaml
from jax.sharding import PartitionSpec

from rljax.numerics.compiler import memory_of
from rljax.numerics.sharding import make_mesh

FOLDER = Path(__file__).parents[2] / "experiments" / "cluster"


# Scripts


@pytest.mark.parametrize("name", ["job.slurm", "stand_in/srun", "stand_in/scontrol"])
def test_bash_reads_it(name):
    subprocess.run(["bash", "-n", FOLDER / name], check=True)
    assert os.access(FOLDER / name, os.X_OK)


def start_slurm(*command, **variables):
    path = f"{FOLDER / 'stand_in'}:{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", FOLDER / "job.slurm", *map(str, command)],
        env=os.environ | {"PATH": path, "SLURM_JOB_ID": "7"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_every_process_gets_a_number_and_the_flag():
    process = start_slurm("bash", "-c", 'echo "$SLURM_PROCID/$SLURM_NTASKS" "$0" "$@"')
    out, err = process.communicate()
    flag = "--distributed auto --connect-timeout 300"
    assert sorted(out.splitlines()) == [f"0/2 {flag}", f"1/2 {flag}"]
    assert (process.returncode, err) == (0, "")


@pytest.mark.parametrize(
    ("status", "restarts", "goes_on"),
    [(0, 0, False), (1, 0, True), (1, 19, True), (1, 20, False), (2, 0, False)],
)
def test_what_the_same_command_may_mend_starts_again(status, restarts, goes_on):
    code = f"exit $((SLURM_PROCID == 1 ? {status} : 0))"
    process = start_slurm("bash", "-c", code, SLURM_RESTART_COUNT=str(restarts))
    _, err = process.communicate()
    assert process.returncode == status
    assert (err == "scontrol requeue 7\n") == goes_on


def test_slurm_needs_a_command():
    process = start_slurm()
    assert "needs a command" in process.communicate()[1]
    assert process.returncode == 2


def test_the_stand_in_passes_sigterm_on_and_waits(tmp_path):
    code = f"trap 'sleep 0.2; exit 1' TERM; touch {tmp_path}/$SLURM_PROCID; while :; do sleep 0.05; done"
    process = subprocess.Popen([FOLDER / "stand_in" / "srun", "bash", "-c", code])
    while len(list(tmp_path.iterdir())) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 1


def test_names_in_the_job_of_kubernetes_agree():
    service, job = yaml.safe_load_all((FOLDER / "job.yaml").read_text())
    spec, name = job["spec"], job["metadata"]["name"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    assert service["spec"]["clusterIP"] == "None"
    assert pod["subdomain"] == service["metadata"]["name"]
    assert spec["completionMode"] == "Indexed"
    flag = container["args"][container["args"].index("--distributed") + 1]
    host, port, count, index = re.split("[:,]", flag)
    assert host == f"{name}-0.{pod['subdomain']}"
    assert [{"containerPort": int(port)}] == container["ports"]
    assert int(count) == spec["completions"] == spec["parallelism"]
    assert index == "$(JOB_COMPLETION_INDEX)"
    bad_usage = spec["podFailurePolicy"]["rules"][0]
    assert (bad_usage["action"], bad_usage["onExitCodes"]["values"]) == ("FailJob", [2])
    assert bad_usage["onExitCodes"]["containerName"] == container["name"]
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy needs
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert all(x.startswith("/shared") for x in container["args"] if x.startswith("/"))


# Costs


def compiled(function, *args):
    """On two devices, each with half of every argument's rows."""
    mesh, rows = make_mesh(jax.devices()[:2]), PartitionSpec("data")
    mapped = jax.shard_map(
        function, mesh=mesh, in_specs=rows, out_specs=rows, check_vma=False
    )
    return jax.jit(mapped).lower(*args).compile()


def sent(function, *args):
    return compiled_costs.traffic(compiled(function, *args).as_text(), 8)


def test_what_a_device_sends_in_a_loop_counts_as_often_as_that_turns():
    def summed(x):  # 4 rows of 3 numbers on each device
        def turn(x, _):
            return jnp.sin(jax.lax.psum(x, "data")), None

        return jax.lax.scan(turn, x, length=5)[0]

    found = sent(summed, jnp.ones((8, 3)))
    assert found == ({("all-reduce", 0): 5 * 2 * 48 / 2}, 0)


def test_gathering_sends_the_parts_that_others_lack():
    def gathered(x):
        return jax.lax.all_gather(x, "data", tiled=True)[:4]

    assert sent(gathered, jnp.ones((8, 3))) == ({("all-gather", 0): 96 / 2}, 0)


def test_a_loop_without_a_known_end_is_named():
    def until(x):
        def turn(x):
            return jax.lax.psum(x, "data") + 1

        return jax.lax.while_loop(lambda x: x.sum() < 100, turn, x)

    assert sent(until, jnp.ones((8, 3))) == ({("all-reduce", 0): 48.0}, 1)


def test_of_branches_the_one_that_sends_most_counts():
    def either(x):
        twice = lambda x: jax.lax.psum(jnp.sin(jax.lax.psum(x, "data")), "data")  # noqa: E731
        once = lambda x: jax.lax.psum(x, "data")  # noqa: E731
        # Known to be the same on all devices, though not to XLA.
        return jax.lax.cond(jax.lax.pmax(x.sum(), "data") > 0, once, twice, x)

    found = sent(either, jnp.ones((8, 3)))
    assert found == ({("all-reduce", 0): 2 * 48.0 + 4.0}, 0)


@pytest.mark.parametrize(
    ("groups", "place", "count"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 0, 4),
        ("{{0,4},{1,5},{2,6},{3,7}}", 1, 2),
        ("[2,4]<=[8]", 0, 4),
        ("[2,4]<=[4,2]T(1,0)", 2, 4),  # 0, 2, 4, 6
        ("mesh['a'=2,'b'=4] {'b'}", 0, 4),
        ("mesh['a'=2,'b'=4] {'a'}", 1, 2),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 0, 4),  # 0, 1, 2, 3
        ("mesh['a'=4,'b'=2] {'a','b'}", 4, 8),
    ],
)
def test_devices_that_take_part_are_read_in_every_form(groups, place, count):
    """Of two nodes of four devices."""
    line = f"  %x = f32[5]{{0}} all-reduce(%y), replica_groups={groups}, to_apply=%add"
    wanted = {("all-reduce", place): 2 * 20 * (count - 1) / count}
    assert compiled_costs._sent(line, 4) == wanted


def test_an_unknown_form_is_an_error():
    line = "%x = f32[5] all-reduce(%y), replica_groups=mesh['a'=8] {'a':(1)4}, ..."
    with pytest.raises(ValueError, match="not known here"):
        compiled_costs._sent(line, 4)


def test_products_of_matrices_are_counted():
    def loss(w, x):
        def turn(x, _):
            return jnp.sin(x @ w), None

        return jax.lax.scan(turn, x, length=7)[0].sum()

    shapes = jax.ShapeDtypeStruct((4, 4), float), jax.ShapeDtypeStruct((3, 4), float)
    assert compiled_costs.flops(loss, *shapes) == 7 * 2 * 3 * 4 * 4
    # Its gradient takes one product for x and one for w beside it.
    assert compiled_costs.flops(jax.grad(loss), *shapes) == 3 * 7 * 2 * 3 * 4 * 4


def test_of_branches_the_one_with_most_products_counts():
    def either(x):
        return jax.lax.cond(x[0, 0] > 0, lambda x: x @ x, lambda x: x @ x @ x, x)

    shape = jax.ShapeDtypeStruct((4, 4), float)
    assert compiled_costs.flops(either, shape) == 2 * 2 * 4 * 4 * 4


def test_memory_of_a_program_adds_up():
    shape = jax.ShapeDtypeStruct((1000,), jnp.float32)
    jitted = jax.jit(lambda x, y: (x + 1, y.sum()), donate_argnums=0)
    memory = memory_of(jitted.lower(shape, shape).compile())
    assert (memory.arguments, memory.donated) == (8000, 4000)
    assert memory.results >= 4
    assert memory.total == memory.arguments + memory.results + memory.temporary


def test_the_estimate_is_arithmetic():
    row = {
        "program": "a", "devices": 64, "flops": 0.4 * 990e12, "tokens": 3000,
        "sent": [
            {"kind": "all-gather", "of_several_nodes": 0, "bytes": 450e9},
            {"kind": "all-reduce", "of_several_nodes": 1, "bytes": 25e9},
            {"kind": "all-reduce", "of_several_nodes": 8, "bytes": 200e9},
        ],
    }  # fmt: skip
    (found,) = paper.estimates([row, row | {"tokens": 0}])
    assert found["seconds_computing"] == pytest.approx(1.0)
    assert found["seconds_sending"] == pytest.approx(1 + 0.5 + 0.5)
    assert found["tokens_per_second"] == pytest.approx(1000)
