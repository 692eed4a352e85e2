"""The test cloud itself: PYTHONPATH=tests python -m unittest cloud.test_cloud, with AMIBAKE_TEST_ROOTFS set."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

import boto3
from botocore.exceptions import ClientError, EndpointConnectionError

AMI = "ami-0a00000000000a023"


class Cloud(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.server = subprocess.Popen(
            [sys.executable, "-m", "cloud", "--scale", "0", "--root", cls.folder.name + "/root",
             "--rootfs", os.environ["AMIBAKE_TEST_ROOTFS"]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        cls.endpoint = json.loads(cls.server.stdout.readline())["endpoint"]
        keys = {"endpoint_url": cls.endpoint, "region_name": "us-east-1", "aws_access_key_id": "x", "aws_secret_access_key": "x"}
        cls.ec2, cls.ssm = boto3.client("ec2", **keys), boto3.client("ssm", **keys)

    @classmethod
    def tearDownClass(cls):
        cls.server.stdin.close()
        cls.server.wait(10)
        cls.server.stdout.close()
        cls.folder.cleanup()

    def control(self, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(f"{self.endpoint}/_cloud/{path}", data=data) as answer:
            return json.load(answer)

    def setUp(self):
        self.control("faults", [])

    def launch(self, image=AMI, **options):
        options = {"IamInstanceProfile": {"Name": "amibake"}, "InstanceType": "m7i.large", **options}
        return self.ec2.run_instances(ImageId=image, MinCount=1, MaxCount=1, **options)["Instances"][0]["InstanceId"]

    def command(self, instance, script, wait=True):
        sent = self.ssm.send_command(DocumentName="AWS-RunShellScript", InstanceIds=[instance], Parameters={"commands": [script]})
        ids = {"CommandId": sent["Command"]["CommandId"], "InstanceId": instance}
        while wait and (said := self.ssm.get_command_invocation(**ids))["Status"] in ("Pending", "InProgress"):
            time.sleep(0.02)
        return said if wait else ids

    def refused(self, code, call, **options):
        with self.assertRaises(ClientError) as caught:
            call(**options)
        self.assertEqual(caught.exception.response["Error"]["Code"], code)

    def test_a_command_runs_and_is_cut_and_cancelled(self):
        instance = self.launch()
        said = self.command(instance, "id -u; cat /etc/amibake-test-cloud; echo oops >&2; exit 3")
        self.assertEqual((said["Status"], said["ResponseCode"]), ("Failed", 3))
        self.assertEqual(said["StandardOutputContent"], "0\nan instance of amibake's test cloud\n")
        self.assertEqual(said["StandardErrorContent"], "oops\nfailed to run commands: exit status 3")
        said = self.command(instance, "seq 100000")
        self.assertEqual(len(said["StandardOutputContent"]), 24_000)
        self.assertTrue(said["StandardOutputContent"].endswith("--output truncated--"))
        ids = self.command(instance, "sleep 100", wait=False)
        time.sleep(0.2)
        self.ssm.cancel_command(CommandId=ids["CommandId"])
        time.sleep(0.2)
        self.assertEqual(self.ssm.get_command_invocation(**ids)["Status"], "Cancelled")

    def test_an_image_keeps_files_and_starts_with_them(self):
        instance = self.launch()
        self.command(instance, "echo kept >/etc/mark; rm /etc/hostname; echo gone >/run/mark")
        self.ec2.stop_instances(InstanceIds=[instance])
        tags = [{"ResourceType": kind, "Tags": [{"Key": "amibake:run", "Value": "r"}]} for kind in ("image", "snapshot")]
        image = self.ec2.create_image(InstanceId=instance, Name="an-image", TagSpecifications=tags)["ImageId"]
        self.refused("InvalidAMIName.Duplicate", self.ec2.create_image, InstanceId=instance, Name="an-image")
        state = self.control("state")
        [made] = [found for found in state["images"] if found["id"] == image]
        self.assertEqual(made["tags"]["amibake:run"], "r")
        self.assertEqual(pathlib.Path(made["files"], "etc/mark").read_text(), "kept\n")
        self.assertTrue(any(found["tags"].get("amibake:run") == "r" for found in state["snapshots"]))
        said = self.command(self.launch(image), "cat /etc/mark; ls /etc/hostname /run/mark 2>/dev/null; mount | wc -l")
        self.assertTrue(said["StandardOutputContent"].startswith("kept\n"), said)
        self.assertNotIn(self.folder.name, pathlib.Path("/proc/mounts").read_text())
        self.ec2.deregister_image(ImageId=image, DeleteAssociatedSnapshots=True)
        self.assertFalse(any(found["id"] == image for found in self.control("state")["images"]))

    def test_tokens(self):
        first = self.launch(ClientToken="t")
        self.assertEqual(self.launch(ClientToken="t"), first)
        self.refused("IdempotentParameterMismatch", self.launch, ClientToken="t", InstanceType="m6i.large")
        self.assertNotEqual(self.launch(ClientToken="u"), first)

    def test_what_is_not_there_is_refused(self):
        self.refused("InvalidAMIID.NotFound", self.launch, image="ami-0123456789abcdef0")
        self.refused("InvalidInstanceID.NotFound", self.ec2.describe_instances, InstanceIds=["i-0123456789abcdef0"])
        self.refused("InvalidParameterValue", self.launch, IamInstanceProfile={"Name": "nobody"})
        self.refused("InvalidInstanceId", self.command, instance="i-0123456789abcdef0", script="true")

    def test_faults(self):
        self.control("faults", [{"operation": "DescribeVpcs", "effect": "error", "code": "UnauthorizedOperation", "status": 403}])
        self.refused("UnauthorizedOperation", self.ec2.describe_vpcs)
        self.control("faults", [{"operation": "DescribeVpcs", "effect": "throttle", "limit": 2}])
        self.ec2.describe_vpcs()
        self.control("faults", [{"operation": "RunInstances", "effect": "reset", "when": "after", "limit": 1}])
        before = len(self.control("state")["instances"])
        self.launch(ClientToken="lost")
        self.assertEqual(len(self.control("state")["instances"]), before + 1, "asked twice, launched once")
        self.control("faults", [{"effect": "dies", "contains": "sleep 50"}])
        instance = self.launch()
        self.command(instance, "sleep 50")
        [found] = [found for found in self.control("state")["instances"] if found["id"] == instance]
        self.assertIn(found["state"], ("shutting-down", "terminated"))


if __name__ == "__main__":
    unittest.main()
