"""The Elastic CI Stack as far as a bake looks at it: its template, and what its image holds beside a distribution."""

import pathlib

# In CloudFormation's YAML, with tags of its own; the reader must survive them.
TEMPLATE = b"""AWSTemplateFormatVersion: "2010-09-09"
Description: "Buildkite stack v6.71.1"
Parameters:
  ImageId: { Type: String, Default: "" }
Conditions:
  HasImage: !Not [!Equals [!Ref ImageId, ""]]
Mappings:
  AWSRegion2AMI:
    us-east-1:
      linuxamd64: ami-0a00000000000b023
      linuxarm64: ami-0a00000000000b024
      windows: ami-0a00000000000b025
Resources:
  Nothing:
    Type: AWS::CloudFormation::WaitConditionHandle
    Condition: HasImage
Outputs:
  Where: { Value: !Sub "${AWS::Region}/${ImageId}" }
"""

PROGRAMS = [
    "bk-mount-instance-storage.sh", "bk-configure-docker.sh", "bk-install-elastic-stack.sh", "bk-check-disk-space.sh",
    "stop-agent-gracefully", "terminate-instance", "s3secrets-helper", "lifecycled", "buildkite-agent-stable",
]
HOOKS = ["environment", "pre-command", "pre-exit"]
# There is no systemd in a chroot: it knows the stack's units, and nothing is enabled, started or stopped.
SYSTEMCTL = """#!/bin/sh
for word; do :; done
case "$1 $word" in
    "cat buildkite-agent.service" | "cat lifecycled.service") echo "[Unit]" ;;
    "cat "*) exit 1 ;;
esac
exit 0
"""


def decorate(root):
    """Writes the stack's files below `root`: a layer over the common root file system, as an overlay reads it."""
    def put(name, text, mode=0o644):
        path = pathlib.Path(root, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)

    for name in PROGRAMS:
        put(f"usr/local/bin/{name}", "#!/bin/sh\nexit 0\n", 0o755)
    put("usr/bin/systemctl", SYSTEMCTL, 0o755)
    for hook in HOOKS:
        put(f"etc/buildkite-agent/hooks/{hook}", "#!/bin/sh\n", 0o755)
    put("usr/local/buildkite-aws-stack/plugins/secrets/plugin.yml", "name: secrets\n")
    for unit in ("cloud-init", "cloud-final"):
        put(f"etc/systemd/system/{unit}.service.d/10-power-off-on-failure.conf", "[Unit]\nOnFailure=poweroff.target\n")
    put("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nbuildkite-agent:x:2000:2000::/var/lib/buildkite-agent:/bin/bash\n")
    put("etc/group", "root:x:0:\ndocker:x:992:buildkite-agent\nbuildkite-agent:x:2000:\n")
