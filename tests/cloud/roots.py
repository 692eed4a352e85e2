"""The files of instances and images. An instance is a mount and a process namespace of its own, held by one process, in
which an overlay lies over a common root file system; nothing is ever mounted outside of it, and with its process it is
gone. An image is a copy of what its instance wrote, over the image that came from."""

import pathlib
import shutil
import subprocess
import threading

MARK = ".amibake-test-cloud"

# Device nodes are made, not borrowed: nothing of the host's is within reach of what runs here.
SETUP = r"""
set -eu
m=$1
mount --make-rprivate /
mount -t overlay overlay -o "$2" "$m"
mkdir -p "$m/proc" "$m/dev" "$m/run"
mount -t proc proc "$m/proc"
mount -t tmpfs tmpfs "$m/run"
mount -t tmpfs tmpfs "$m/dev"
mknod -m 666 "$m/dev/null" c 1 3; mknod -m 666 "$m/dev/zero" c 1 5
mknod -m 666 "$m/dev/random" c 1 8; mknod -m 666 "$m/dev/urandom" c 1 9
ln -s /proc/self/fd "$m/dev/fd"
touch "$3"
exec sleep infinity
"""


class Roots:
    def __init__(self, folder, rootfs):
        self.folder = pathlib.Path(folder).resolve()
        self.rootfs = pathlib.Path(rootfs).resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / MARK).exists() and any(self.folder.iterdir()):
            raise SystemExit(f"{self.folder} is neither empty nor a test cloud's")
        (self.folder / MARK).touch()
        self.layers = {}
        self.holders = {}
        self.lock = threading.Lock()

    def start(self, instance, image):
        """Gives an instance a copy of an image's files. Stopped and started again, it has its own."""
        home = self.folder / instance
        for name in ("upper", "work", "mnt"):
            (home / name).mkdir(parents=True, exist_ok=True)
        self.layers.setdefault(instance, self.layers.get(image, []))
        lower = ":".join(map(str, [*self.layers[instance], self.rootfs]))
        options = f"lowerdir={lower},upperdir={home}/upper,workdir={home}/work"
        ready = home / "ready"
        ready.unlink(missing_ok=True)
        holder = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", SETUP, "sh", home / "mnt", options, ready],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        while not ready.exists():
            if holder.poll() is not None:
                raise RuntimeError(f"no namespace for {instance}")
            threading.Event().wait(0.01)
        with self.lock:
            self.holders[instance] = holder

    def command(self, instance, script):
        """A process that runs a script in an instance, in a session of its own."""
        with self.lock:
            holder = self.holders[instance]
        children = pathlib.Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
        root = self.folder / instance / "mnt"
        return subprocess.Popen(
            ["nsenter", "-t", children[0], "--mount", "--pid", "chroot", root, "/usr/bin/env", "-i",
             "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", script],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)

    def stop(self, instance):
        """Ends every process of an instance."""
        with self.lock:
            holder = self.holders.pop(instance, None)
        if holder:
            holder.kill()
            holder.wait()

    def keep(self, instance, image):
        """Keeps what an instance wrote as an image's files."""
        kept = self.folder / image
        subprocess.run(["cp", "-a", "--one-file-system", self.folder / instance / "upper", kept], check=True)
        self.layers[image] = [kept, *self.layers[instance]]

    def remove(self, name):
        home = self.folder / name
        if home.parent == self.folder and home.exists() and not home.is_symlink():
            subprocess.run(["rm", "-rf", "--one-file-system", home], check=True)

    def close(self):
        for instance in list(self.holders):
            self.stop(instance)
