"""python -m cloud: AWS as far as amibake needs it, on loopback. See README.md beside this file."""

import argparse
import datetime
import io
import json
import os
import re
import signal
import socket
import sys
import threading
import time
import urllib.parse

from .commands import Commands
from .copies import OPERATIONS, Copies
from .machines import ACCOUNT, Machines
from .pages import paged
from .roots import Roots
from .rules import Rules
from .seed import seed
from .stack import TEMPLATE, decorate
from .wire import Call, Failure

LATEST = "/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-"
PARAMETERS = {LATEST + "x86_64": "ami-0a00000000000a023", LATEST + "arm64": "ami-0a00000000000a024"}
HOME = "us-east-1"
ROLE = "/ssm/managed-instance/default-ec2-instance-management-role"
EC2 = {
    "RunInstances": "run_instances", "DescribeInstances": "describe_instances", "DescribeImages": "describe_images",
    "StopInstances": "stop_instances", "TerminateInstances": "terminate_instances", "CreateImage": "create_image",
    "ModifyImageAttribute": "modify_image_attribute", "DeregisterImage": "deregister_image",
    "DeleteSecurityGroup": "delete_security_group", "ModifyInstanceAttribute": "modify_instance_attribute",
}


class Cloud:
    def __init__(self, root, rootfs, scale):
        from moto.server import DomainDispatcherApplication, create_backend_app

        self.moto = DomainDispatcherApplication(create_backend_app)
        self.rules = Rules()
        self.roots = Roots(root, rootfs)
        self.machines = Machines(self.roots, self.rules, scale, self.ask)
        self.commands = Commands(self.machines, self.roots, self.rules, scale, self.put)
        self.machines.ended = self.commands.ended
        self.copies = Copies(self.rules, scale)
        self.calls = []
        self.scale = scale
        # What the SSM parameters of a stack came to.
        self.resolved = {}
        # Entries on a page at most; none for as many as are asked for.
        self.most = None
        # A request of EC2's: what is asked of moto on the side is asked in its name.
        self.asker = {}
        # That of the thread that asks; of a thread that answers nobody, the last one.
        self.asking = threading.local()
        self.ssm = {
            "DescribeInstanceInformation": self.agents, "SendCommand": lambda call: self.commands.send(call.params),
            "GetCommandInvocation": lambda call: self.commands.invocation(call.params),
            "CancelCommand": lambda call: self.commands.cancel(call.params), "GetServiceSetting": self.setting,
            "GetParameter": self.parameter, "GetParameters": self.parameters, "DescribeParameters": self.describe_parameters,
        }

    def agents(self, call):
        params = call.params
        wanted = next((f["Values"] for f in params.get("Filters", []) if f["Key"] == "InstanceIds"), self.machines.born)
        return {"InstanceInformationList": [
            {"InstanceId": name, "PingStatus": "Online", "AgentVersion": "3.3.2299.0", "PlatformType": "Linux"}
            for name in wanted if self.machines.online(name)]}

    @staticmethod
    def stored(call, name):
        """A parameter: a public one, or one that was put."""
        from moto.ssm import ssm_backends

        if name in PARAMETERS:
            return {"Name": name, "Type": "String", "Value": PARAMETERS[name], "DataType": "aws:ec2:image", "Version": 1}
        found = ssm_backends[ACCOUNT][call.region].get_parameter(name)
        if not found:
            return None
        value = found.decrypt(found.value) if call.params.get("WithDecryption") else found.value
        return {"Name": name, "Type": found.parameter_type, "Value": value, "DataType": found.data_type,
                "Version": found.version}

    def parameter(self, call):
        found = self.stored(call, call.params["Name"])
        if not found:
            raise Failure("ParameterNotFound", "")
        return {"Parameter": found}

    def parameters(self, call):
        if len(call.params["Names"]) > 10:
            raise Failure("ValidationException", "at most 10 names")
        found = {name: self.stored(call, name) for name in call.params["Names"]}
        return {"Parameters": [one for one in found.values() if one],
                "InvalidParameters": [name for name, one in found.items() if not one]}

    def describe_parameters(self, call):
        """By data type, which moto does not filter by; or by name."""
        from moto.ssm import ssm_backends

        filters = call.params.get("ParameterFilters", [])
        wanted = {"DataType": "data_type", "Name": "name"}.get(filters[0]["Key"] if len(filters) == 1 else "")
        if wanted is None:
            raise Failure("InvalidFilterKey", "only DataType or Name here")
        backend = ssm_backends[ACCOUNT][call.region]
        every = [backend.get_parameter(name) for name in list(backend._parameters)]
        every = [one for one in every if getattr(one, wanted) in filters[0]["Values"]]
        size = min(call.params.get("MaxResults", 50), self.most or 50)
        start = int(call.params.get("NextToken", 0))
        answer = {"Parameters": [{"Name": one.name, "Type": one.parameter_type, "DataType": one.data_type, "Version": one.version,
                                  **({"KeyId": one.keyid} if one.keyid else {})} for one in every[start:start + size]]}
        return {**answer, "NextToken": str(start + size)} if start + size < len(every) else answer

    def resolve_anew(self, call, name):
        """Whether a stack's parameters that name SSM parameters come to other values than at its last update, as the
        service asks and moto does not."""
        from moto.cloudformation import cloudformation_backends

        stacks = cloudformation_backends[ACCOUNT][call.region].stacks.values()
        stack = next((stack for stack in stacks if stack.name == name), None)
        if stack is None:
            return False
        declared = stack.template_dict.get("Parameters", {})
        values = {key: (self.stored(call, stack.parameters[key]) or {}).get("Value") for key, one in declared.items()
                  if one["Type"].startswith("AWS::SSM::Parameter::Value")}
        before = self.resolved.get(stack.stack_id)
        self.resolved[stack.stack_id] = values
        if before is None or before == values:
            return False
        stack.status = "UPDATE_COMPLETE"
        return True

    def setting(self, call):
        if call.params["SettingId"] != ROLE:
            raise Failure("ServiceSettingNotFound", "")
        return {"ServiceSetting": {"SettingId": ROLE, "SettingValue": "$None", "Status": "Default"}}

    def put(self, bucket, key, text):
        from moto.s3 import s3_backends

        s3_backends[ACCOUNT]["aws"].put_object(bucket, key, text.encode())

    @staticmethod
    def objects():
        """Keys by bucket."""
        from moto.s3 import s3_backends

        return {name: list(bucket.keys.keys()) for name, bucket in list(s3_backends[ACCOUNT]["aws"].buckets.items())}

    def ask(self, call):
        """moto's answer to a call of EC2's."""
        body = urllib.parse.urlencode({**call.params, "Action": call.operation, "Version": "2016-11-15"}).encode()
        environ = {**getattr(self.asking, "environ", self.asker), "wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body)),
                   "CONTENT_TYPE": "application/x-www-form-urlencoded"}
        status, headers, answer = self.pass_on(environ)
        text = answer.decode()
        if not status.startswith("2"):
            code = re.search(r"<Code>(.*?)</Code>", text)
            message = re.search(r"<Message>(.*?)</Message>", text)
            raise Failure(code[1] if code else "InternalError", message[1] if message else text[:200], int(status[:3]))
        return text

    def pass_on(self, environ):
        said = {}

        def start(status, headers, _=None):
            said["status"], said["headers"] = status, headers
            return lambda _: None

        answer = b"".join(self.moto(environ, start))
        return said["status"], said["headers"], answer

    def answer(self, call, environ, body):
        if call.service == "ssm" and call.operation in self.ssm:
            text = json.dumps(self.ssm[call.operation](call))
            return "200 OK", [("Content-Type", "application/x-amz-json-1.1")], text.encode()
        if call.service == "ec2" and call.operation in OPERATIONS:
            text = getattr(self.copies, OPERATIONS[call.operation])(call)
            return "200 OK", [("Content-Type", "text/xml")], text.encode()
        if call.service == "ec2" and call.operation == "DeregisterImage":
            self.copies.may_deregister(call)
        if call.service == "ec2" and call.operation == "ModifyImageAttribute" and call.params["ImageId"] in self.copies.made:
            if call.params.get("ImdsSupport.Value") == "v2.0":
                self.copies.v2.add(call.params["ImageId"])
                return "200 OK", [("Content-Type", "text/xml")], b"<ModifyImageAttributeResponse><return>true</return></ModifyImageAttributeResponse>"
        # Machines are in one region; in the others there are images, and what moto makes of them.
        if call.service == "ec2" and call.operation in EC2 and call.region == HOME:
            text = self.copies.decorate(getattr(self.machines, EC2[call.operation])(call))
            text = paged(call, text, self.most)
            return "200 OK", [("Content-Type", "text/xml")], text.encode()
        status, headers, answer = self.pass_on({**environ, "wsgi.input": io.BytesIO(body)})
        if call.service == "cloudformation" and call.operation in ("CreateStack", "UpdateStack"):
            anew = self.resolve_anew(call, call.params["StackName"])
            if anew and b"No updates are to be performed" in answer:
                answer = b"<UpdateStackResponse><UpdateStackResult/></UpdateStackResponse>"
                return "200 OK", [("Content-Type", "text/xml")], answer
        if call.service == "ec2" and status.startswith("200"):
            answer = paged(call, self.copies.decorate(answer.decode()), self.most).encode()
        return status, headers, answer

    def control(self, path, body):
        if path == "calls":
            return self.calls
        if path == "state":
            return {**self.machines.everything(), "hanging": self.rules.hanging, "objects": self.objects()}
        if path == "faults":
            self.rules.replace(json.loads(body))
            return None
        if path == "seed":
            return seed(json.loads(body))
        if path == "account":
            wanted = json.loads(body)
            self.copies.keys.update(wanted.get("keys", {}))
            self.copies.unblocked.update(wanted.get("unblocked", []))
            return None
        if path == "pages":
            self.most = json.loads(body)
            return None
        if path == "buckets":
            from moto.s3 import s3_backends

            s3_backends[ACCOUNT]["aws"].create_bucket(json.loads(body), "us-east-1")
            return None
        raise KeyError(path)

    def __call__(self, environ, start):
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)) if environ.get(
            "HTTP_TRANSFER_ENCODING") != "chunked" else environ["wsgi.input"].read()
        path = environ["PATH_INFO"]
        if path.startswith("/buildkite-aws-stack/") and path.endswith("/aws-stack.yml"):
            start("200 OK", [("Content-Type", "binary/octet-stream"), ("Content-Length", str(len(TEMPLATE)))])
            return [TEMPLATE]
        if path.startswith("/_cloud/"):
            text = json.dumps(self.control(path[8:], body)).encode()
            start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(text)))])
            return [text]
        call = Call.of(environ, body)
        if call.service == "ec2":
            self.asking.environ = environ
            if call.region == HOME:
                self.asker = environ
        record = {"time": time.monotonic(), "service": call.service, "operation": call.operation, "error": None,
                  "parameters": sorted(call.params), "key": call.key(environ)}
        self.calls.append(record)
        lost = False
        try:
            lost = self.rules.strike(call, "before")
            if not lost:
                status, headers, answer = self.answer(call, environ, body)
                lost = self.rules.strike(call, "after")
        except Failure as failure:
            record["error"] = failure.code
            number, kind, text = failure.response(call.service)
            status, headers, answer = f"{number} Error", [("Content-Type", kind)], text.encode()
        if lost:
            record["error"] = "reset"
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        start(status, [*headers, ("Content-Length", str(len(answer)))])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else answer]


def hasten():
    """moto looks through the tags of everything for the tags of one thing: with hundreds of images, that is all it does."""
    from moto.ec2.models.core import TaggedEC2Resource
    from moto.ec2.utils import EC2_PREFIX_TO_RESOURCE, get_prefix

    def get_tags(self):
        kind = EC2_PREFIX_TO_RESOURCE.get(get_prefix(self.id), "") if self.id else ""
        tags = dict(self.ec2_backend.tags.get(self.id, {}))
        return [{"resource_id": self.id, "key": key, "value": value, "resource_type": kind} for key, value in tags.items()]

    TaggedEC2Resource.get_tags = get_tags


def furnish(cloud):
    """The public images, the parameters that name them, and a network that leads out."""
    from moto.ec2 import ec2_backends
    from moto.iam import iam_backends

    backend = ec2_backends[ACCOUNT]["us-east-1"]
    backend.amis.clear()
    public = [
        ("ami-0a00000000000a023", "al2023-ami-2023.12.20260710.0-kernel-6.1-x86_64", "x86_64", "137112412989"),
        ("ami-0a00000000000a024", "al2023-ami-2023.12.20260710.0-kernel-6.1-arm64", "arm64", "137112412989"),
        ("ami-0a00000000000a025", "al2023-ami-minimal-2023.12.20260710.0-kernel-6.1-x86_64", "x86_64", "137112412989"),
        ("ami-0a00000000000b023", "buildkite-stack-linux-amazonlinux2023-x86_64-2026-07-10T00-00-00Z", "x86_64", "172840064832"),
    ]
    from moto.ec2.models.amis import Ami

    for image, name, arch, owner in public:
        made = Ami(backend, image, name=name, architecture=arch, owner_id=owner, public=True, virtualization_type="hvm",
                   root_device_name="/dev/xvda", root_device_type="ebs", creation_date=datetime.datetime(2026, 7, 10, tzinfo=datetime.timezone.utc),
                   image_type="machine", description=name, state="available", image_location=f"amazon/{name}")
        backend.amis[image] = made
        cloud.machines.v2.add(image)
    decorate(cloud.roots.folder / "stack")
    cloud.roots.layers["ami-0a00000000000b023"] = [cloud.roots.folder / "stack"]
    gateway = backend.create_internet_gateway()
    vpc = next(vpc for vpc in backend.vpcs.values() if vpc.is_default == "true" or vpc.is_default is True)
    backend.attach_internet_gateway(gateway.id, vpc.id)
    # Out by a gateway that needs no public address.
    subnet = next(iter(backend.describe_subnets()))
    nat = backend.create_nat_gateway(subnet.id, None, connectivity_type="private")
    for table in backend.describe_route_tables():
        if table.vpc_id == vpc.id:
            backend.create_route(table.id, "0.0.0.0/0", nat_gateway_id=nat.id)
    iam = iam_backends[ACCOUNT]["aws"]
    iam.create_role("amibake", "{}", "/", None, "", [], "3600")
    profile = iam.create_instance_profile("amibake", "/", [])
    iam.add_role_to_instance_profile(profile.name, "amibake")


def main():
    parser = argparse.ArgumentParser(prog="cloud")
    parser.add_argument("--root", required=True, help="folder for the files of instances and images")
    parser.add_argument("--rootfs", required=True, help="what public images hold: see make-rootfs")
    parser.add_argument("--scale", type=float, default=1.0, help="the service's delays are this many times the real ones")
    args = parser.parse_args()
    os.environ.setdefault("MOTO_ENABLE_ISO_REGIONS", "false")
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_request(self, *_):
            pass

    hasten()
    cloud = Cloud(args.root, args.rootfs, args.scale)
    furnish(cloud)
    server = make_server("127.0.0.1", 0, cloud, threaded=True, request_handler=Quiet)
    print(json.dumps({"endpoint": f"http://127.0.0.1:{server.server_port}"}), flush=True)
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())

    def watch():
        # Whoever started this may be killed: then its end of the pipe closes.
        sys.stdin.read()
        server.shutdown()

    threading.Thread(target=watch, daemon=True).start()
    try:
        server.serve_forever()
    finally:
        cloud.roots.close()


main()
