"""What moto's EC2 lacks: client tokens, states that take time, images with files and tags on their snapshots, deaths.
Answers are moto's own, changed where they must be."""

import re
import threading
import time

from . import wire
from .wire import Call, Failure

# Seconds of the real service, roughly, times the scale.
DELAYS = {"pending": 8, "online": 25, "stopping": 15, "shutting-down": 30, "image": 60}
CODES = {"pending": 0, "running": 16, "shutting-down": 32, "terminated": 48, "stopping": 64, "stopped": 80}
ACCOUNT = "123456789012"


class Machines:
    """`ask` passes a call on to moto."""

    def __init__(self, roots, rules, scale, ask):
        self.roots, self.rules, self.scale, self.ask = roots, rules, scale, ask
        self.lock = threading.Lock()
        self.tokens, self.born, self.stopped, self.imaged = {}, {}, {}, {}
        self.reasons, self.dead, self.silent, self.failed = {}, {}, set(), set()
        self.mappings, self.v2 = {}, set()
        self.ended = lambda instance: None

    @property
    def backend(self):
        from moto.ec2 import ec2_backends

        return ec2_backends[ACCOUNT]["us-east-1"]

    def age(self, since, delay):
        return time.monotonic() - since >= DELAYS[delay] * self.scale

    def online(self, instance):
        born = self.born.get(instance)
        if born is None or instance in self.dead or instance in self.silent or instance in self.stopped:
            return False
        return time.monotonic() - born >= (DELAYS["pending"] + DELAYS["online"]) * self.scale

    def state(self, instance, real):
        if instance in self.dead:
            return "terminated" if self.age(self.dead[instance], "shutting-down") else "shutting-down"
        if real == "stopped" and not self.age(self.stopped.get(instance, 0), "stopping"):
            return "stopping"
        if real == "running" and not self.age(self.born.get(instance, 0), "pending"):
            return "pending"
        return real

    def image_state(self, image):
        if image in self.failed:
            return "failed"
        return "available" if self.age(self.imaged.get(image, 0), "image") else "pending"

    def run_instances(self, call):
        form = call.params
        token = form.get("ClientToken")
        shape = sorted((key, value) for key, value in form.items() if ".Tag." not in key)
        with self.lock:
            if token in self.tokens:
                before, answer = self.tokens[token]
                if before != shape:
                    raise Failure("IdempotentParameterMismatch", "the token was used with other parameters")
                return answer
            if not form["ImageId"] in self.backend.amis:
                raise Failure("InvalidAMIID.NotFound", f"The image id '[{form['ImageId']}]' does not exist")
            profile = form.get("IamInstanceProfile.Name")
            if profile and profile not in self.profiles():
                raise Failure("InvalidParameterValue", f"Value ({profile}) for parameter iamInstanceProfile.name is invalid")
            answer = self.ask(call)
            [instance] = re.findall(r"<instanceId>(i-[0-9a-f]+)</instanceId>", answer)
            self.tokens[token] = (shape, answer)
            self.born[instance] = time.monotonic()
        if self.rules.matching(call, "before", ["never_online"]):
            self.silent.add(instance)
        self.roots.start(instance, form["ImageId"])
        return self.changed(answer)

    @staticmethod
    def profiles():
        from moto.iam import iam_backends

        return {profile.name for profile in iam_backends[ACCOUNT]["aws"].instance_profiles.values()}

    def changed(self, answer):
        """States as they are by now, in an answer of moto's."""
        def instance(match):
            state = self.state(match[1], match[4])
            reason = self.reasons.get(match[1])
            said = f"<stateReason><code>{reason}</code><message>{reason}: ended</message></stateReason>" if reason else ""
            return f"{match[2]}{said}<instanceState><code>{CODES[state]}</code><name>{state}</name></instanceState>"

        answer = re.sub(r"(?s)(?=<instanceId>(i-[0-9a-f]+)</instanceId>)(.{0,3000}?)<instanceState>\s*<code>(\d+)</code>"
                        r"\s*<name>([a-z-]+)</name>\s*</instanceState>", instance, answer)

        def image(match):
            support = "<imdsSupport>v2.0</imdsSupport>" if match[1] in self.v2 else ""
            state = self.image_state(match[1])
            reason = "<stateReason><code>Client.InternalError</code><message>the snapshot was lost</message></stateReason>"
            return f"{match[2]}{support}{reason if state == 'failed' else ''}<imageState>{state}</imageState>"

        return re.sub(r"(?s)(?=<imageId>(ami-[0-9a-f]+)</imageId>)(.{0,1000}?)<imageState>[a-z]+</imageState>", image, answer)

    def known(self, form, names, code):
        ids = wire.listed(form, names)
        table = self.backend.amis if names == "ImageId" else {i.id: i for i in self.backend.all_instances()}
        gone = [name for name in ids if name not in table]
        if gone:
            raise Failure(code, f"The id '{', '.join(gone)}' does not exist")

    def describe_instances(self, call):
        self.known(call.params, "InstanceId", "InvalidInstanceID.NotFound")
        return self.changed(self.ask(call))

    def describe_images(self, call):
        self.known(call.params, "ImageId", "InvalidAMIID.NotFound")
        return self.changed(self.ask(call))

    def stop_instances(self, call):
        answer = self.ask(call)
        for instance in wire.listed(call.params, "InstanceId"):
            self.stopped[instance] = time.monotonic()
            self.roots.stop(instance)
            self.ended(instance)
        return answer

    def terminate_instances(self, call):
        self.known(call.params, "InstanceId", "InvalidInstanceID.NotFound")
        with self.lock:
            ids = wire.listed(call.params, "InstanceId")
            if all(instance in self.dead for instance in ids):
                # moto would look for interfaces that are gone.
                state = "<currentState><code>32</code><name>shutting-down</name></currentState>"
                items = "".join(f"<item><instanceId>{instance}</instanceId>{state}</item>" for instance in ids)
                return f"<TerminateInstancesResponse><instancesSet>{items}</instancesSet></TerminateInstancesResponse>"
            answer = self.ask(call)
            for instance in ids:
                self.dead.setdefault(instance, time.monotonic())
        for instance in wire.listed(call.params, "InstanceId"):
            self.dead.setdefault(instance, time.monotonic())
            self.roots.stop(instance)
            self.ended(instance)
        return answer

    def die(self, instance, reason):
        self.reasons[instance] = reason
        self.ask(Call("ec2", "TerminateInstances", {"Action": "TerminateInstances", "InstanceId.1": instance}))
        self.dead.setdefault(instance, time.monotonic())
        self.roots.stop(instance)
        self.ended(instance)

    def create_image(self, call):
        form = dict(call.params)
        name, instance = form["Name"], form["InstanceId"]
        with self.lock:
            if any(image.name == name and image.owner_id == ACCOUNT for image in list(self.backend.amis.values())):
                raise Failure("InvalidAMIName.Duplicate", f"AMI name {name} is already in use by AMI")
            if self.state(instance, self.backend.get_instance(instance).state) not in ("running", "stopped"):
                raise Failure("IncorrectInstanceState", "the instance is neither running nor stopped")
            given = {kind: wire.tags(form, kind) for kind in ("image", "snapshot")}
            plain = {key: value for key, value in form.items() if not key.startswith(("TagSpecification", "BlockDevice"))}
            answer = self.ask(Call("ec2", "CreateImage", plain))
            [image] = re.findall(r"<imageId>(ami-[0-9a-f]+)</imageId>", answer)
            made = self.backend.amis[image]
            self.backend.create_tags([image], given["image"])
            if made.ebs_snapshot:
                self.backend.create_tags([made.ebs_snapshot.id], given["snapshot"])
            self.imaged[image] = time.monotonic()
            self.mappings[image] = {key: value for key, value in form.items() if key.startswith("BlockDevice")}
            # An image requires what the one that its instance started from does.
            if self.backend.get_instance(instance).image_id in self.v2:
                self.v2.add(image)
            if self.rules.matching(call, "before", ["image_fails"]):
                self.failed.add(image)
        self.roots.keep(instance, image)
        return answer

    def delete_security_group(self, call):
        group = call.params.get("GroupId")
        for instance in self.backend.all_instances():
            bound = any(group == one.id for one in instance.security_groups) or any(
                group == one.id for nic in instance.nics.values() for one in nic.group_set)
            if bound and self.state(instance.id, instance.state) != "terminated":
                raise Failure("DependencyViolation", f"resource {group} has a dependent object")
        return self.ask(call)

    def modify_instance_attribute(self, call):
        """An instance's groups are those of its first interface."""
        groups = wire.listed(call.params, "GroupId")
        if not groups:
            return self.ask(call)
        self.known({"InstanceId.1": call.params["InstanceId"]}, "InstanceId", "InvalidInstanceID.NotFound")
        instance = self.backend.get_instance(call.params["InstanceId"])
        found = [group for group in self.backend.describe_security_groups() if group.id in groups]
        instance.security_groups = found
        for nic in instance.nics.values():
            nic._group_set = found
        return "<ModifyInstanceAttributeResponse><return>true</return></ModifyInstanceAttributeResponse>"

    def modify_image_attribute(self, call):
        if call.params.get("ImdsSupport.Value") == "v2.0":
            self.v2.add(call.params["ImageId"])
            return "<ModifyImageAttributeResponse><return>true</return></ModifyImageAttributeResponse>"
        return self.ask(call)

    def deregister_image(self, call):
        image = self.backend.amis.get(call.params["ImageId"])
        answer = self.ask(call)
        if image and call.params.get("DeleteAssociatedSnapshots") == "true" and image.ebs_snapshot:
            self.backend.delete_snapshot(image.ebs_snapshot.id)
        self.roots.remove(call.params["ImageId"])
        return answer

    def everything(self):
        """What exists, for a test to look at; calls go on meanwhile, so moto's tables are copied before they are read."""
        backend = self.backend
        tags = lambda thing: {tag["key"]: tag["value"] for tag in thing.get_tags()}
        public = lambda image: image.owner_id != ACCOUNT
        return {
            "instances": [{"id": i.id, "state": self.state(i.id, i.state), "tags": tags(i),
                           "files": str(self.roots.folder / i.id / "upper")} for i in backend.all_instances()],
            "images": [{"id": i.id, "name": i.name, "public": public(i), "tags": tags(i), "mapping": self.mappings.get(i.id),
                        "imds_v2": i.id in self.v2, "files": str(self.roots.folder / i.id)}
                       for i in list(backend.amis.values()) if not public(i)],
            "snapshots": [{"id": s.id, "tags": tags(s)} for s in backend.describe_snapshots() if s.owner_id == ACCOUNT
                          and "amibake" in str(tags(s))],
            "volumes": [{"id": v.id, "status": v.status, "tags": tags(v)} for v in backend.describe_volumes()],
            "groups": [{"id": g.id, "name": g.name, "tags": tags(g)} for g in backend.describe_security_groups()],
        }
