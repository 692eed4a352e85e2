"""What goes over the wire: which call a request is, and errors as each service's protocol spells them."""

import dataclasses
import json
import re
import urllib.parse
import uuid


@dataclasses.dataclass
class Call:
    service: str
    operation: str
    params: dict
    region: str = "us-east-1"

    @staticmethod
    def key(environ):
        """Whose call it is, by the id of the access key."""
        found = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
        return found[1] if found else None

    @classmethod
    def of(cls, environ, body):
        """The call that a request makes. S3's operations are named by method and path."""
        scope = re.search(r"Credential=[^/]+/\d+/([^/]+)/([^/]+)/aws4_request", environ.get("HTTP_AUTHORIZATION", ""))
        region, service = scope.groups() if scope else ("us-east-1", "ec2")
        target = environ.get("HTTP_X_AMZ_TARGET")
        if target:
            return cls("ssm", target.rsplit(".", 1)[1], json.loads(body or b"{}"), region)
        form = {}
        if environ.get("CONTENT_TYPE", "").startswith("application/x-www-form-urlencoded"):
            form = dict(urllib.parse.parse_qsl(body.decode(), keep_blank_values=True))
        if "Action" in form:
            return cls(service, form["Action"], form, region)
        return cls("s3", f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}", {})


@dataclasses.dataclass
class Failure(Exception):
    """An error that a service answers with."""

    code: str
    message: str = "on purpose"
    status: int = 400

    def response(self, service):
        """Status, content type and body."""
        request = str(uuid.uuid4())
        if service == "ssm":
            body = json.dumps({"__type": self.code, "message": self.message})
            return self.status, "application/x-amz-json-1.1", body
        error = f"<Code>{self.code}</Code><Message>{self.message}</Message>"
        if service == "ec2":
            body = f"<Response><Errors><Error>{error}</Error></Errors><RequestID>{request}</RequestID></Response>"
        elif service == "s3":
            body = f"<Error>{error}<RequestId>{request}</RequestId></Error>"
        else:
            body = f"<ErrorResponse><Error><Type>Sender</Type>{error}</Error><RequestId>{request}</RequestId></ErrorResponse>"
        return self.status, "text/xml", body


def listed(form, prefix):
    """The values of `prefix.1`, `prefix.2`, … of a form."""
    found = {}
    for key, value in form.items():
        part = re.fullmatch(re.escape(prefix) + r"\.(\d+)", key)
        if part:
            found[int(part[1])] = value
    return [found[number] for number in sorted(found)]


def tags(form, resource):
    """The tags that a form's TagSpecifications give to a kind of resource."""
    given = {}
    for key, value in form.items():
        spec = re.fullmatch(r"TagSpecification\.(\d+)\.ResourceType", key)
        if spec and value == resource:
            for name, text in form.items():
                tag = re.fullmatch(rf"TagSpecification\.{spec[1]}\.Tag\.(\d+)\.Key", name)
                if tag:
                    given[text] = form.get(f"TagSpecification.{spec[1]}.Tag.{tag[1]}.Value", "")
    return given
