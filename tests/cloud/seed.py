"""Images as bakes leave them, many at once: what a test of the catalog starts from."""

import datetime
import hashlib

from .machines import ACCOUNT


def seed(wanted):
    """Makes `count` images each a day older than the one before, the first `days` old; their ids. Keys of `wanted`: region,
    recipe, arch (amd64), version (v0.31.2), days, count (1), tags (more of them; a value of None leaves one out)."""
    from moto.ec2 import ec2_backends
    from moto.ec2.models.amis import Ami
    from moto.ec2.utils import random_ami_id

    region, recipe, arch = wanted["region"], wanted["recipe"], wanted.get("arch", "amd64")
    backend = ec2_backends[ACCOUNT][region]
    machine = {"amd64": "x86_64", "arm64": "arm64"}[arch]
    now = datetime.datetime.now(datetime.timezone.utc)
    ids = []
    for number in range(wanted.get("count", 1)):
        image = random_ami_id()
        version = wanted.get("version", "v0.31.2")
        made = Ami(backend, image, name=f"{recipe}-{version}-{arch}-{image[4:]}", architecture=machine, root_device_type="ebs",
                   root_device_name="/dev/xvda", virtualization_type="hvm", region_name=f"{region}a",
                   creation_date=now - datetime.timedelta(days=wanted["days"] + number))
        tags = {
            "amibake:recipe": recipe, "amibake:buildkit": version, "amibake:arch": arch, "amibake:base": "ami-0a00000000000a023",
            "amibake:fingerprint": hashlib.sha256(image.encode()).hexdigest(), "amibake:run": "20261124t145112-3fa9c1",
            "amibake:stand-in": "true", **wanted.get("tags", {}),
        }
        tags = {key: value for key, value in tags.items() if value is not None}
        backend.amis[image] = made
        backend.create_tags([image], tags)
        backend.create_tags([made.ebs_snapshot.id], tags)
        ids.append(image)
    return ids
