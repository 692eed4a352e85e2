"""Answers in pages, which moto does not give: as many entries as were asked for, or as few as a test wants."""

import base64
import xml.etree.ElementTree as tree

SETS = {"DescribeImages": "imagesSet", "DescribeSnapshots": "snapshotSet", "DescribeInstances": "reservationSet"}


def paged(call, answer, most):
    """The page of `answer` that `call` asks for, of at most `most` entries where that is less."""
    if call.operation not in SETS or (most is None and "MaxResults" not in call.params):
        return answer
    size = min(int(call.params.get("MaxResults", 1000)), most or 1000)
    root = tree.fromstring(answer)
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    entries = root.find(space + SETS[call.operation])
    start = int(base64.b64decode(call.params["NextToken"])) if call.params.get("NextToken") else 0
    all_of_them = list(entries)
    for entry in all_of_them[:start] + all_of_them[start + size:]:
        entries.remove(entry)
    for token in root.findall(space + "nextToken"):
        root.remove(token)
    if start + size < len(all_of_them):
        tree.SubElement(root, space + "nextToken").text = base64.b64encode(str(start + size).encode()).decode()
    if space:
        tree.register_namespace("", space[1:-1])
    return tree.tostring(root, encoding="unicode")
