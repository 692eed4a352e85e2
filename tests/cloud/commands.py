"""Run Command as instances really carry it out, with the agent's limits: output cut at 24,000 and 8,000 characters."""

import os
import signal
import threading
import time
import uuid

from .wire import Call, Failure

CUT = "--output truncated--"
LIMIT = 64 * 1024
OVER = ("Success", "Failed", "TimedOut", "Cancelled")


def cut(text, most):
    return text if len(text) <= most else text[: most - len(CUT)] + CUT


class Command:
    def __init__(self, instance, script, timeout, bucket, prefix):
        self.id = str(uuid.uuid4())
        self.instance, self.script, self.timeout = instance, script, timeout
        self.bucket, self.prefix = bucket, prefix
        self.status, self.code, self.out, self.err = "Pending", -1, "", ""
        self.sent = time.monotonic()
        self.process = None
        self.ending = None


class Commands:
    """`machines` knows which instance is online, `roots` runs scripts, `put` stores an object."""

    def __init__(self, machines, roots, rules, scale, put):
        self.machines, self.roots, self.rules, self.scale, self.put = machines, roots, rules, scale, put
        self.commands = {}
        self.lock = threading.Lock()

    def send(self, params):
        if params["DocumentName"] != "AWS-RunShellScript":
            raise Failure("InvalidDocument", "no such document")
        if len(str(params.get("Parameters", {}))) > LIMIT:
            raise Failure("ValidationException", "the document and its parameters are larger than 64 KB")
        [instance] = params["InstanceIds"]
        if not self.machines.online(instance):
            raise Failure("InvalidInstanceId", f"Instances [[{instance}]] not in a valid state for account")
        parameters = params["Parameters"]
        script = "\n".join(parameters["commands"])
        timeout = max(5, int(parameters.get("executionTimeout", ["3600"])[0]))
        command = Command(instance, script, timeout, params.get("OutputS3BucketName"), params.get("OutputS3KeyPrefix", ""))
        with self.lock:
            self.commands[command.id] = command
        threading.Thread(target=self.carry_out, args=[command], daemon=True).start()
        return {"Command": {"CommandId": command.id, "Status": "Pending", "InstanceIds": [instance]}}

    def carry_out(self, command):
        call = Call("ssm", "SendCommand", {"instance": command.instance, "script": command.script})
        with self.lock:
            if command.ending:
                command.status = command.ending
                return
            command.status = "InProgress"
            command.process = self.roots.command(command.instance, command.script)
        dying = self.rules.matching(call, "before", ["dies"])
        if dying:
            time.sleep(0.2)
            self.machines.die(command.instance, dying.get("code", "Server.SpotInstanceTermination"))
        try:
            out, err = command.process.communicate(timeout=command.timeout)
        except Exception:
            self.end(command, "TimedOut")
            out, err = command.process.communicate()
        code = command.process.returncode
        out, err = out.decode(errors="replace"), err.decode(errors="replace")
        if command.bucket:
            key = f"{command.prefix}/{command.id}/{command.instance}/awsrunShellScript/0.awsrunShellScript/stdout"
            self.put(command.bucket, key, out)
        if code:
            err += f"failed to run commands: exit status {code}"
        with self.lock:
            command.code, command.out, command.err = code, cut(out, 24_000), cut(err, 8_000)
            command.status = command.ending or ("Failed" if code else "Success")

    def end(self, command, status):
        with self.lock:
            if command.status in OVER:
                return
            command.ending = status
            process = command.process
        if process and process.poll() is None:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def invocation(self, params):
        command = self.commands.get(params["CommandId"])
        if not command or command.instance != params["InstanceId"] or time.monotonic() - command.sent < 0.3 * self.scale:
            raise Failure("InvocationDoesNotExist", "")
        return {
            "CommandId": command.id, "InstanceId": command.instance, "DocumentName": "AWS-RunShellScript",
            "Status": command.status, "StatusDetails": command.status, "ResponseCode": command.code,
            "StandardOutputContent": command.out, "StandardErrorContent": command.err,
        }

    def cancel(self, params):
        command = self.commands.get(params["CommandId"])
        if not command:
            raise Failure("InvalidCommandId", "")
        self.end(command, "Cancelled")
        return {}

    def ended(self, instance):
        """The instance is gone, and what ran on it."""
        for command in list(self.commands.values()):
            if command.instance == instance:
                self.end(command, "Failed")
