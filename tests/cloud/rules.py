"""Faults by rule. A rule is a JSON object; all that it says must match:

  service, operation, region   of the call
  nth                  the how-manieth call that the rule could match (from 1)
  probability          of a match, from a generator with a fixed seed
  limit                matches at most this often
  contains             text that the call's parameters contain

and it does `effect`:

  error        `code`, `status` (400), `message`
  throttle     the service's own code for too many requests
  reset        the connection is closed without an answer
  hang         nothing happens until the rules are replaced
  never_online, dies, image_fails   facts of the world, see `machines`

`when` is `before` (default) or `after` the call took effect: a lost answer.
"""

import random
import threading

from .wire import Failure

THROTTLED = {"ec2": "RequestLimitExceeded", "ssm": "ThrottlingException", "s3": "SlowDown"}


class Rules:
    def __init__(self):
        self.lock = threading.Lock()
        self.released = threading.Event()
        self.hanging = 0
        self.replace([])

    def replace(self, rules):
        with self.lock:
            self.rules = [{**rule, "seen": 0, "used": 0} for rule in rules]
            self.random = random.Random(1)
            self.released.set()
            self.released = threading.Event()

    def matching(self, call, when, effects=None):
        """The first rule that is for this call now."""
        with self.lock:
            for rule in self.rules:
                if (rule["effect"] in ("never_online", "dies", "image_fails")) != bool(effects):
                    continue
                if effects and rule["effect"] not in effects:
                    continue
                if rule.get("when", "before") != when or not self.fits(rule, call):
                    continue
                rule["seen"] += 1
                if "nth" in rule and rule["seen"] != rule["nth"]:
                    continue
                if self.random.random() >= rule.get("probability", 1) or rule["used"] >= rule.get("limit", 1e9):
                    continue
                rule["used"] += 1
                return rule
        return None

    @staticmethod
    def fits(rule, call):
        return (
            rule.get("service", call.service) == call.service
            and rule.get("operation", call.operation) == call.operation
            and rule.get("region", call.region) == call.region
            and rule.get("contains", "") in str(call.params)
        )

    def strike(self, call, when):
        """Does what a rule says; `reset` is for the caller to do."""
        rule = self.matching(call, when)
        if rule is None:
            return False
        if rule["effect"] == "hang":
            with self.lock:
                released = self.released
                self.hanging += 1
            released.wait(120)
            with self.lock:
                self.hanging -= 1
            return False
        if rule["effect"] == "throttle":
            raise Failure(THROTTLED.get(call.service, "Throttling"), "Rate exceeded", 503 if call.service != "ssm" else 400)
        if rule["effect"] == "error":
            raise Failure(rule["code"], rule.get("message", "on purpose"), rule.get("status", 400))
        return rule["effect"] == "reset"
