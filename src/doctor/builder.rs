//! The builder from within: what a script on it says of its disks, its cache, its clock and its daemon, judged. PURE.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{Check, LITTLE, lasts};
use crate::report::human_bytes;

/// Runs on the builder and prints [`Facts`].
pub const SCRIPT: &str = include_str!("../../assets/doctor/builder.sh");

/// How far clocks may differ before certificates and signed requests are refused. AWS allows five minutes; a minute is
/// what no clock that is kept in step reaches.
const SKEW: i64 = 60;
/// A cache that is younger explains builds that begin from nothing.
const YOUNG: i64 = 24 * 3600;
/// A cache that may grow to no more than this part of its volume, or these bytes, is emptied before it is of use.
const TIGHT: (u64, u64) = (4, 10 << 30);
/// A daemon that started since is too new for its restarts to be long ago.
const LATELY: i64 = 3600;

const ROOT_FULL: &str = "`journalctl --vacuum-size=200M` and what lies in /var/tmp on the builder make room; bake with a larger \
                         `machine.disk` if it comes again";
const CACHE_FULL: &str = "enlarge it (`aws ec2 modify-volume`, then restart buildkitd), or let the cache have less of it \
                          (`[buildkitd.gc] max_used_percent`); `buildctl prune` makes room now";

/// What the script printed.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    said: BTreeMap<String, String>,
    /// When it was asked, and when the answer was there.
    asked: Option<(Timestamp, Timestamp)>,
}

impl Facts {
    /// Reads what [`SCRIPT`] printed between two moments. Lines that are none of its are left out.
    #[must_use]
    pub fn read(printed: &str, asked: (Timestamp, Timestamp)) -> Self {
        let said = printed.lines().filter_map(|line| line.split_once('\t'));
        Self { said: said.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), asked: Some(asked) }
    }

    fn word(&self, name: &str) -> Option<&str> {
        self.said.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.word(name)?.parse().ok()
    }

    /// Bytes of a file system: all of them, and those that are free.
    fn disk(&self, name: &str) -> Option<(u64, u64)> {
        let (all, free) = self.word(name)?.split_once(' ')?;
        Some((all.parse().ok()?, free.parse().ok()?))
    }

    /// BuildKit's version there.
    #[must_use]
    pub fn version(&self) -> Option<&str> {
        self.word("version")
    }

    /// Everything that it tells, in the order in which a cause hides another.
    #[must_use]
    pub fn judge(&self) -> Vec<Check> {
        if self.word("cache").is_none() {
            let why = "it is none that amibake baked: /etc/amibake/buildkitd.env is not there";
            return self.clock().into_iter().chain([Check::skipped("builder-inside", why)]).collect();
        }
        let checks = [
            self.clock(),
            self.full("builder-disk", "root_disk", "the builder's root disk", ROOT_FULL),
            self.place(),
            self.full("cache-disk", "cache_disk", "the cache volume", CACHE_FULL),
            self.certificate(),
            self.daemon(),
            self.restarts(),
            self.age(),
            self.room(),
        ];
        checks.into_iter().flatten().collect()
    }

    fn now(&self) -> Option<i64> {
        self.number("now")
    }

    fn clock(&self) -> Option<Check> {
        let (now, (before, after)) = (self.now()?, self.asked?);
        let behind = before.as_second() - now;
        let ahead = now - after.as_second();
        let off = behind.max(ahead);
        Some(if off > SKEW {
            let which = if behind > 0 { "behind" } else { "ahead of" };
            Check::wrong(
                "clock",
                "clock-skew",
                format!("the builder's clock is {off} s {which} this machine's"),
                "set the clock that is wrong (`timedatectl`, chrony): certificates and requests to AWS are refused by it",
            )
        } else {
            Check::fine("clock", "the builder's agrees with this machine's")
        })
    }

    fn full(&self, check: &'static str, name: &str, what: &str, hint: &str) -> Option<Check> {
        let (all, free) = self.disk(name)?;
        let left = format!("{} of {} are free on {what}", human_bytes(free), human_bytes(all));
        Some(if free < LITTLE.1.min(all / LITTLE.0) {
            Check::wrong(check, "disk-full", left, hint)
        } else {
            Check::fine(check, left)
        })
    }

    fn place(&self) -> Option<Check> {
        let cache = self.word("cache")?;
        Some(match self.word("cache_on")? {
            "root" => Check::wrong(
                "cache-volume",
                "cache-on-root",
                format!("{cache} is on the root disk: the cache goes with the instance"),
                "attach the cache volume and mount it there: `systemctl status 'amibake-volume@*'` on the builder says what \
                 keeps it away; `buildkitd.root` must be below a volume's mount",
            ),
            _ => Check::fine("cache-volume", format!("{cache} is on a volume of its own")),
        })
    }

    fn certificate(&self) -> Option<Check> {
        if let Some(state) = self.word("tls").filter(|state| *state != "active") {
            return Some(Check::wrong(
                "certificate",
                "certificate-missing",
                format!("the daemon has no certificate and key: amibake-tls.service is {state}"),
                "`journalctl -u amibake-tls` on the builder says what is in the way; `amibake certs show` says what there is",
            ));
        }
        let (until, now) = (self.number("certificate_until")?, self.now()?);
        let hint = "`amibake certs renew`; the builder follows within a day, or at once by `systemctl start amibake-tls-renew`";
        Some(lasts("certificate", "the builder's", until, now, hint))
    }

    fn daemon(&self) -> Option<Check> {
        let (state, result) = (self.word("state")?, self.word("result").unwrap_or("success"));
        let hint =
            "`journalctl -u buildkitd` on the builder says why; `systemctl reset-failed buildkitd`, then start it";
        Some(match state {
            "active" => Check::fine("buildkitd", "it runs"),
            // A large cache takes minutes to open, a drain lasts as long as the recipe lets it.
            "activating" => Check::warning("buildkitd", "daemon-starts", "it starts", "look again in some minutes"),
            "deactivating" => Check::warning(
                "buildkitd",
                "daemon-drains",
                "it waits for builds to end, and takes no new ones",
                "look again then",
            ),
            _ if result == "success" => {
                Check::wrong("buildkitd", "daemon-down", format!("buildkitd.service is {state}"), hint)
            }
            _ => Check::wrong("buildkitd", "daemon-down", format!("buildkitd.service is {state}: {result}"), hint),
        })
    }

    fn restarts(&self) -> Option<Check> {
        let (restarts, since) = (self.number("restarts")?, self.number("active_since").unwrap_or(0));
        let lately = self.now()? - since < LATELY;
        let found = format!("systemd restarted it {restarts} times");
        let hint = "`journalctl -u buildkitd` and `journalctl -k | grep -i oom` on the builder: memory that ran out is the usual \
                    reason, a larger instance or a lower `max_parallelism` the remedy";
        Some(match (restarts, lately) {
            (0, _) => Check::fine("restarts", "none since it was last started in order"),
            (_, true) => {
                Check::wrong("restarts", "daemon-restarts", format!("{found}, within the last hour too"), hint)
            }
            (_, false) => Check::warning("restarts", "daemon-restarts", found, hint),
        })
    }

    fn age(&self) -> Option<Check> {
        // 0 where the file system keeps no such time.
        let since = self.number("cache_since").filter(|since| *since > 0)?;
        let age = (self.now()? - since).max(0);
        let hours = age / 3600;
        Some(if age < YOUNG {
            Check::warning(
                "cache-age",
                "volume-new",
                format!("the cache began {hours} h ago: builds since then began from nothing"),
                "the volume is new: a new instance in another zone, a volume that was not found by its tag, or one that was \
                 formatted. A cache in the registry (--export-cache) is there before it is warm",
            )
        } else {
            Check::fine("cache-age", format!("the cache is {} days old", age / (24 * 3600)))
        })
    }

    fn room(&self) -> Option<Check> {
        if self.word("gc") == Some("off") {
            let hint = "turn `[buildkitd.gc] enabled` on, or empty it yourself: the volume fills up";
            return Some(Check::warning("cache-room", "gc-off", "garbage collection is off", hint));
        }
        let (most, (all, _)) = (self.word("cache_most")?.parse::<u64>().ok()?, self.disk("cache_disk")?);
        let found = format!("the cache may grow to {} of {}", human_bytes(most), human_bytes(all));
        Some(if most < (all / TIGHT.0).max(TIGHT.1) {
            let hint = "raise `[buildkitd.gc] max_used_percent` or the volume's size: what a large build leaves is removed before \
                        the next one asks for it";
            Check::warning("cache-room", "gc-tight", found, hint)
        } else {
            Check::fine("cache-room", found)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    const GIB: u64 = 1 << 30;

    /// A builder on which nothing is wrong, a day and more old.
    const GOOD: &[(&str, &str)] = &[
        ("now", "1800000000"),
        ("version", "v0.31.2"),
        ("root_disk", "10737418240 5368709120"),
        ("cache", "/var/lib/buildkit"),
        ("cache_disk", "107374182400 53687091200"),
        ("cache_on", "volume"),
        ("cache_since", "1700000000"),
        ("cache_most", "85899345920"),
        ("state", "active"),
        ("result", "success"),
        ("restarts", "0"),
        ("active_since", "1799000000"),
    ];

    fn judge(change: &[(&str, &str)]) -> Vec<Check> {
        let lines = GOOD.iter().filter(|(name, _)| !change.iter().any(|(other, _)| other == name)).chain(change);
        let printed: String = lines.map(|(name, value)| format!("{name}\t{value}\n")).collect();
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        Facts::read(&format!("noise\n{printed}"), (now, now)).judge()
    }

    fn faults(change: &[(&str, &str)]) -> Vec<(&'static str, Verdict)> {
        let bad = judge(change).into_iter().filter(|check| check.verdict != Verdict::Fine);
        bad.map(|check| (check.fault, check.verdict)).collect()
    }

    #[test]
    fn a_good_builder() {
        let checks = judge(&[]);
        assert!(checks.len() >= 8 && checks.iter().all(|check| check.verdict == Verdict::Fine), "{checks:#?}");
    }

    #[test]
    fn each_fault_is_named() {
        use Verdict::{Skipped, Warning, Wrong};
        let tight = (20 * GIB).to_string();
        for (change, fault, verdict) in [
            (("now", "1799999000"), "clock-skew", Wrong),
            (("now", "1800000100"), "clock-skew", Wrong),
            (("root_disk", "10737418240 1000"), "disk-full", Wrong),
            (("cache_disk", "107374182400 1000000"), "disk-full", Wrong),
            (("cache_on", "root"), "cache-on-root", Wrong),
            (("cache_since", "1799990000"), "volume-new", Warning),
            (("cache_most", tight.as_str()), "gc-tight", Warning),
            (("gc", "off"), "gc-off", Warning),
            (("state", "failed"), "daemon-down", Wrong),
            (("restarts", "3"), "daemon-restarts", Warning),
            (("tls", "activating"), "certificate-missing", Wrong),
            (("certificate_until", "1799999999"), "certificate-expired", Wrong),
            (("certificate_until", "1800086400"), "certificate-expires-soon", Warning),
        ] {
            assert_eq!(faults(&[change]), [(fault, verdict)], "{change:?}");
        }
        assert_eq!(faults(&[("restarts", "3"), ("active_since", "1799999000")]), [("daemon-restarts", Wrong)]);
        assert_eq!(faults(&[("state", "activating")]), [("daemon-starts", Warning)]);
        assert_eq!(faults(&[("state", "deactivating")]), [("daemon-drains", Warning)]);
        assert_eq!(faults(&[("certificate_until", "1900000000"), ("tls", "active")]), []);
        // A time that is not kept says nothing.
        assert_eq!(faults(&[("cache_since", "0")]), []);
        let stranger =
            Facts::read("now\t5\n", (Timestamp::from_second(5).unwrap(), Timestamp::from_second(6).unwrap()));
        let checks = stranger.judge();
        assert_eq!(checks.iter().map(|check| check.verdict).collect::<Vec<_>>(), [Verdict::Fine, Skipped]);
    }
}
