"""Does with docker-py what programs do with it, and prints a line of JSON for each step.

The daemon is that of DOCKER_HOST; it has the image busybox:test. What is printed has no
identifiers and no times, so that two daemons can be compared. Errors are their class and
status: their texts differ from version to version.
"""

import io
import json
import tarfile
import time

import docker
from docker.types import IPAMConfig, IPAMPool, LogConfig, Mount, Ulimit

IMAGE = "busybox:test"
client = docker.from_env(timeout=60)


def plain(value):
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, dict):
        return {k: plain(v) for k, v in sorted(value.items())}
    return value


def step(name, do):
    try:
        saw = plain(do())
    except docker.errors.ContainerError as err:
        saw = ["ContainerError", err.exit_status, plain(err.stderr)]
    except docker.errors.APIError as err:
        saw = [type(err).__name__, err.status_code]
    except docker.errors.DockerException as err:
        saw = [type(err).__name__]
    print(json.dumps({"step": name, "saw": saw}), flush=True)


def then(thing, *parts):
    """Reloads thing and returns parts of what inspect says."""
    thing.reload()
    out = []
    for part in parts:
        value = thing.attrs
        for key in part.split("."):
            value = value[key]
        out.append(value)
    return out


def run(*command, **options):
    return client.containers.run(IMAGE, list(command), remove=True, **options)


def archive(name, text):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        member = tarfile.TarInfo(name)
        member.size = len(text)
        tar.addfile(member, io.BytesIO(text))
    return buffer.getvalue()


def read_all(sock):
    out = b""
    while True:
        piece = sock.recv(1000)
        if not piece:
            return out
        out += piece


def once():
    step("output", lambda: run("echo", "hi"))
    step("both streams", lambda: sorted(run("sh", "-c", "echo out; echo err >&2", stdout=True, stderr=True).split()))
    step("failure", lambda: run("sh", "-c", "echo err >&2; exit 3"))
    step("no such command", lambda: run("no-such-command"))
    step("memory below the minimum", lambda: client.containers.create(IMAGE, "true", mem_limit="1k"))
    step("no such container", lambda: client.containers.get("absent"))
    step("unknown filter", lambda: client.containers.list(filters={"absent": "1"}))


def life():
    box = client.containers.run(
        IMAGE, ["sh", "-c", 'trap "exit 7" TERM; while :; do echo tick; sleep 0.1; done'],
        detach=True, name="box", hostname="host", environment={"A": "b"}, labels={"l": "1"}, ports={"80/tcp": None},
        mem_limit="64m", nano_cpus=500_000_000, pids_limit=50, init=True, read_only=True, tmpfs={"/t": "size=1m"},
        cap_drop=["ALL"], security_opt=["no-new-privileges"], ulimits=[Ulimit(name="nofile", soft=100, hard=200)],
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        log_config=LogConfig(type="json-file", config={"max-size": "1m"}))
    step("inspect", lambda: then(
        box, "State.Status", "Config.Labels", "Config.Hostname", "HostConfig.Memory", "HostConfig.NanoCpus", "HostConfig.PidsLimit",
        "HostConfig.Ulimits", "HostConfig.RestartPolicy", "HostConfig.LogConfig", "HostConfig.Tmpfs", "HostConfig.CapDrop"))
    step("ports", lambda: [list(box.ports), sorted(p["HostIp"] for p in box.ports["80/tcp"])])
    lines = box.logs(stream=True, follow=True)
    step("follow the log", lambda: [next(lines), next(lines)])
    step("tail", lambda: box.logs(tail=1))
    step("log of tomorrow", lambda: box.logs(since=int(time.time()) + 86400))
    step("exec", lambda: box.exec_run(["sh", "-c", "echo $A; exit 5"]))
    step("exec, streams apart", lambda: box.exec_run(["sh", "-c", "echo o; echo e >&2"], demux=True))
    step("exec on a terminal", lambda: box.exec_run(["sh", "-c", "echo o"], tty=True))
    step("exec elsewhere", lambda: box.exec_run(["sh", "-c", "pwd; id -u; echo $B"], environment={"B": "c"}, workdir="/bin", user="1000"))

    def talk():
        made = client.api.exec_create(box.id, ["cat"], stdin=True)
        sock = client.api.exec_start(made["Id"], socket=True)._sock
        sock.sendall(b"hello\n")
        sock.shutdown(1)
        return read_all(sock), client.api.exec_inspect(made["Id"])["ExitCode"]
    step("talk to an exec", talk)
    step("top", lambda: box.top()["Titles"])
    stats = box.stats(stream=False)
    step("stats", lambda: [stats["name"], stats["memory_stats"]["limit"], sorted(stats["networks"]), stats["cpu_stats"]["online_cpus"] > 0])
    step("pause", lambda: (box.pause(), then(box, "State.Status", "State.Paused", "State.Running"))[1])
    step("exec while paused", lambda: box.exec_run("true"))
    step("resume", lambda: (box.unpause(), then(box, "State.Status"))[1])
    step("rename", lambda: (box.rename("crate"), then(box, "Name"))[1])
    step("update", lambda: (box.update(mem_limit="128m", memswap_limit="256m"), then(box, "HostConfig.Memory", "HostConfig.MemorySwap"))[1])
    step("commit", lambda: then(box.commit("committed", tag="1", author="me", changes=['CMD ["x"]']), "Config.Cmd", "Author", "RepoTags"))
    step("stop", lambda: (box.stop(timeout=5), then(box, "State.Status", "State.ExitCode"))[1])
    step("wait", lambda: box.wait()["StatusCode"])
    step("start", lambda: (box.start(), then(box, "State.Status"))[1])
    step("restart", lambda: (box.restart(timeout=1), then(box, "State.Status", "RestartCount"))[1])
    step("no such signal", lambda: box.kill("SIGABSENT"))
    step("kill", lambda: (box.kill(), box.wait()["StatusCode"])[1])
    step("name in use", lambda: client.containers.create(IMAGE, "true", name="crate"))
    step("remove", lambda: box.remove())
    step("remove again", lambda: box.remove())


def files():
    box = client.containers.create(IMAGE, "true", name="files")
    step("put", lambda: box.put_archive("/tmp", archive("f", b"abc")))
    step("put where there is nothing", lambda: box.put_archive("/absent", archive("f", b"abc")))

    def get():
        pieces, stat = box.get_archive("/tmp/f")
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as tar:
            return [(m.name, m.size) for m in tar], stat["name"], stat["size"], stat["mode"]
    step("get", get)
    step("get what is not there", lambda: box.get_archive("/absent"))
    step("diff", lambda: sorted((d["Path"], d["Kind"]) for d in box.diff()))
    box.remove()

    made = client.api.create_container(IMAGE, ["sh", "-c", "read a; echo got $a; exit 4"], stdin_open=True)

    def talk():
        sock = client.api.attach_socket(made["Id"], params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})._sock
        client.api.start(made["Id"])
        sock.sendall(b"it\n")
        return read_all(sock), client.api.wait(made["Id"])["StatusCode"]
    step("attach", talk)
    client.api.remove_container(made["Id"])


def networks():
    pool = IPAMPool(subnet="10.88.0.0/24", gateway="10.88.0.1")
    net = client.networks.create("net", driver="bridge", ipam=IPAMConfig(pool_configs=[pool]), labels={"l": "1"}, internal=True)
    step("network", lambda: then(net, "Name", "Driver", "Scope", "Internal", "Labels", "IPAM.Config"))
    box = client.containers.run(IMAGE, ["sleep", "1000"], detach=True, name="member", network="net", init=True)
    step("its container", lambda: (net.reload(), [c.name for c in net.containers], then(box, "NetworkSettings.Networks")[0]["net"]["IPAddress"])[1:])
    step("name", lambda: run("nslookup", "member", network="net").decode().count("10.88.0.2"))
    step("alias on the default bridge", lambda: client.networks.get("bridge").connect(box, aliases=["a"]))
    step("connect", lambda: (client.networks.get("bridge").connect(box), sorted(then(box, "NetworkSettings.Networks")[0]))[1])
    step("remove in use", lambda: net.remove())
    step("disconnect", lambda: (net.disconnect(box), sorted(then(box, "NetworkSettings.Networks")[0]))[1])
    step("remove a network", lambda: net.remove())
    step("remove the default bridge", lambda: client.networks.get("bridge").remove())
    box.remove(force=True)


def volumes():
    volume = client.volumes.create("vol", labels={"k": "v"})
    step("volume", lambda: then(volume, "Name", "Driver", "Labels", "Scope"))
    step("write", lambda: run("sh", "-c", "echo d >/v/f", volumes={"vol": {"bind": "/v", "mode": "rw"}}))
    step("read", lambda: run("cat", "/v/f", mounts=[Mount("/v", "vol", read_only=True)]))
    step("write what is read-only", lambda: run("sh", "-c", "echo d >/v/f", volumes=["vol:/v:ro"]))
    step("remove a volume", lambda: volume.remove())
    step("no such volume", lambda: client.volumes.get("vol"))


def images():
    dockerfile = b'FROM busybox:test\nARG X=1\nLABEL a=b\nRUN echo $X >/x\nCMD ["cat", "/x"]\n'
    step("build", lambda: client.images.build(fileobj=io.BytesIO(dockerfile), tag="built:1", buildargs={"X": "9"}, rm=True)[0].tags)
    step("run what was built", lambda: client.containers.run("built:1", remove=True))
    step("failing build", lambda: client.images.build(fileobj=io.BytesIO(b"FROM busybox:test\nRUN exit 9\n")))
    step("misspelt Dockerfile", lambda: client.images.build(fileobj=io.BytesIO(b"FRO busybox:test\n")))
    image = client.images.get("built:1")
    step("tag", lambda: (image.tag("other", "t"), sorted(then(image, "RepoTags")[0]))[1])
    step("list", lambda: [len(client.images.list("built")), len(client.images.list(filters={"label": "a=b"})), len(client.images.list("absent"))])
    step("save and load", lambda: [sorted(i.tags) for i in client.images.load(b"".join(image.save(named="built:1")))])
    step("untag", lambda: (client.images.remove("other:t"), client.images.remove("built:1"))[1])
    step("no such image", lambda: client.images.get("built:1"))
    step("remove no image", lambda: client.images.remove("absent:1"))


def events():
    start = time.time()
    run("true", name="seen")
    time.sleep(1)
    seen = client.events(since=int(start), until=int(time.time()), decode=True, filters={"container": "seen"})
    step("events", lambda: [(e["Type"], e["Action"], e["Actor"]["Attributes"].get("exitCode")) for e in seen if e["Action"] in ("create", "start", "die", "destroy")])


for part in (once, life, files, networks, volumes, images, events):
    part()
