"""Images in every region, as far as moto lacks it: copies that take time and bear tags, deprecation, protection, and the
account's settings that stand before sharing."""

import re
import threading
import time

from . import wire
from .machines import ACCOUNT, DELAYS
from .wire import Failure

OPERATIONS = {
    "CopyImage": "copy", "EnableImageDeprecation": "deprecate", "EnableImageDeregistrationProtection": "protect",
    "GetImageBlockPublicAccessState": "public", "GetEbsDefaultKmsKeyId": "key",
}


class Copies:
    def __init__(self, rules, scale):
        self.rules, self.scale = rules, scale
        self.lock = threading.Lock()
        self.tokens, self.made, self.failed = {}, {}, set()
        self.deprecated, self.protected, self.v2 = {}, set(), set()
        # By region; without an entry, AWS's own key and no public images.
        self.keys, self.unblocked = {}, set()

    @staticmethod
    def backend(region):
        from moto.ec2 import ec2_backends

        return ec2_backends[ACCOUNT][region]

    def copy(self, call):
        from moto.ec2.models.amis import Ami
        from moto.ec2.utils import random_ami_id

        form, here = call.params, self.backend(call.region)
        with self.lock:
            if form.get("ClientToken") in self.tokens:
                return self.tokens[form["ClientToken"]]
            source = self.backend(form["SourceRegion"]).amis.get(form["SourceImageId"])
            if source is None:
                raise Failure("InvalidAMIID.NotFound", "no such image")
            if any(image.name == form["Name"] and image.owner_id == ACCOUNT for image in list(here.amis.values())):
                raise Failure("InvalidAMIName.Duplicate", f"AMI name {form['Name']} is already in use by AMI")
            under_way = sum(1 for image, born in self.made.items() if image in here.amis and self.state(image) == "pending")
            if under_way >= 20:
                raise Failure("ResourceLimitExceeded", "too many copies under way")
            image = random_ami_id()
            made = Ami(here, image, name=form["Name"], architecture=source.architecture, root_device_type="ebs",
                       root_device_name=source.root_device_name, virtualization_type="hvm", region_name=f"{call.region}a",
                       description=form.get("Description"))
            here.amis[image] = made
            here.create_tags([image], wire.tags(form, "image"))
            here.create_tags([made.ebs_snapshot.id], wire.tags(form, "snapshot"))
            self.made[image] = time.monotonic()
            if self.rules.matching(call, "before", ["image_fails"]):
                self.failed.add(image)
            answer = f"<CopyImageResponse><imageId>{image}</imageId></CopyImageResponse>"
            self.tokens[form.get("ClientToken")] = answer
            return answer

    def state(self, image):
        if image in self.failed:
            return "failed"
        return "available" if time.monotonic() - self.made[image] >= DELAYS["image"] * self.scale else "pending"

    def known(self, call):
        image = call.params["ImageId"]
        if image not in self.backend(call.region).amis:
            raise Failure("InvalidAMIID.NotFound", f"The image id '[{image}]' does not exist")
        return image

    def deprecate(self, call):
        self.deprecated[self.known(call)] = call.params["DeprecateAt"]
        return "<EnableImageDeprecationResponse><return>true</return></EnableImageDeprecationResponse>"

    def protect(self, call):
        self.protected.add(self.known(call))
        name = "EnableImageDeregistrationProtectionResponse"
        return f"<{name}><return>enabled-without-cooldown</return></{name}>"

    def public(self, call):
        state = "unblocked" if call.region in self.unblocked else "block-new-sharing"
        name = "GetImageBlockPublicAccessStateResponse"
        return f"<{name}><imageBlockPublicAccessState>{state}</imageBlockPublicAccessState></{name}>"

    def key(self, call):
        key = self.keys.get(call.region, "alias/aws/ebs")
        return f"<GetEbsDefaultKmsKeyIdResponse><kmsKeyId>{key}</kmsKeyId></GetEbsDefaultKmsKeyIdResponse>"

    def may_deregister(self, call):
        if call.params["ImageId"] in self.protected:
            raise Failure("OperationNotPermitted", "deregistration protection is on")

    def decorate(self, answer):
        """What is known of images, in an answer of moto's."""
        def image(match):
            name, more = match[1], ""
            if name in self.deprecated:
                more += f"<deprecationTime>{self.deprecated[name]}</deprecationTime>"
            if name in self.protected:
                more += "<deregistrationProtection>enabled-without-cooldown</deregistrationProtection>"
            text = match[0]
            if name in self.made:
                if name in self.v2:
                    more += "<imdsSupport>v2.0</imdsSupport>"
                state = self.state(name)
                if state == "failed":
                    more += "<stateReason><code>Client.InternalError</code><message>the copy was lost</message></stateReason>"
                text = re.sub("<imageState>[a-z]+</imageState>", f"<imageState>{state}</imageState>", text)
            return more + text

        return re.sub(r"(?s)<imageId>(ami-[0-9a-f]+)</imageId>.{0,1500}?<imageState>[a-z]+</imageState>", image, answer)
