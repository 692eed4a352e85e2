//! What the values of a recipe must agree on: uniqueness, sums, references, choices of one.
//!
//! Works on the tree and not on the decoded types, so that these faults are told together with those of the shape: a
//! rule whose values are missing or misshapen says nothing. Pure: what lies on disk is `disk`'s business.

use std::collections::HashMap;

use super::fault::Fault;
use super::quantity::{parse_duration, parse_size, shown};
use super::schema::listed;
use super::source::{Sources, Span};
use super::tree::{Node, Value};
use super::types::{Buildkitd, Gc, MachineSpec, default_volume_size};

/// Below this no kernel with systemd boots, let alone installs packages.
const LEAST_MEMORY: u64 = 256 << 20;

/// mkfs.ext4 wants a journal's room; EBS starts at 1 GiB anyway.
const LEAST_EXT4: u64 = 16 << 20;

/// mkfs.xfs (5.19 and newer) refuses less than 300 MB.
const LEAST_XFS: u64 = 300 << 20;

/// An XFS label holds 12 bytes, `bake-` takes five.
const MOST_XFS_NAME: usize = 7;

/// EBS's smallest HDD volumes (st1, sc1).
const LEAST_HDD: u64 = 125 << 30;

/// EC2 takes 50 tags a resource; amibake keeps ten for its own.
const MOST_TAGS: usize = 40;

/// Collects what does not agree.
pub(super) fn check(sources: &Sources<'_>, root: &Node) -> Vec<Fault> {
    let mut rules = Rules { sources, root, faults: Vec::new() };
    rules.base();
    rules.machine();
    rules.volumes();
    rules.cache_root();
    rules.garbage_collection();
    rules.steps();
    rules.checks();
    rules.tags();
    rules.faults
}

struct Rules<'r> {
    sources: &'r Sources<'r>,
    root: &'r Node,
    faults: Vec<Fault>,
}

impl Rules<'_> {
    fn push(&mut self, fault: Fault) {
        self.faults.push(fault);
    }

    fn base(&mut self) {
        if let Some(aws) = self.root.at(&["base", "aws"]).filter(|aws| matches!(aws.value, Value::Table(_))) {
            const WAYS: [&str; 4] = ["ssm_parameter", "ami", "filter", "elastic_ci_stack"];
            let given: Vec<_> = aws.entries().iter().filter(|entry| WAYS.contains(&entry.key.as_str())).collect();
            match given.as_slice() {
                // With a misspelt key there, that fault is told and this one would only repeat it.
                [] if aws.entries().is_empty() => {
                    self.push(Fault::missing(aws.span, "`base.aws` names no AMI").expected(listed(&WAYS)));
                }
                [first, rest @ ..] => {
                    for entry in rest {
                        let fault =
                            Fault::new(entry.key_span, format!("`base.aws` names a second AMI with `{}`", entry.key));
                        self.push(fault.expected(format!(
                            "one of {}; `{}` is given already",
                            listed(&WAYS),
                            first.key
                        )));
                    }
                }
                [] => {}
            }
        }
        self.local_base();
    }

    fn local_base(&mut self) {
        let Some(local) = self.root.at(&["base", "local"]) else { return };
        let digest = local.get("digest");
        let Some(image) = local.get("image") else { return };
        let images: Vec<(Option<&str>, &Node)> = match &image.value {
            Value::Table(entries) => entries.iter().map(|entry| (Some(entry.key.as_str()), &entry.node)).collect(),
            _ => vec![(None, image)],
        };
        for (arch, image) in images {
            let url = image.text().is_some_and(|text| text.starts_with("http://") || text.starts_with("https://"));
            let covered = digest.is_some_and(|digest| match (&digest.value, arch) {
                (Value::Table(_), Some(arch)) => digest.get(arch).is_some(),
                _ => true,
            });
            if url && !covered {
                let arch = arch.map(|arch| format!(" for {arch}")).unwrap_or_default();
                self.push(
                    Fault::missing(image.span, format!("a base from a URL without a digest{arch}"))
                        .expected("`base.local.digest`, `sha256:…` or `sha512:…` as its publisher states it"),
                );
            }
        }
    }

    fn machine(&mut self) {
        let machine = self.root.get("machine");
        if let Some((node, bytes)) = machine.and_then(|machine| size_at(machine, "memory"))
            && bytes < LEAST_MEMORY
        {
            self.push(Fault::new(node.span, "too little memory to boot").expected("at least `256MiB`"));
        }
        let default = MachineSpec::default().timeout;
        let deadline = machine.and_then(|machine| machine.get("timeout"));
        // Who shortens the whole bake for one run does not want to be told about each step.
        if deadline.is_some_and(|node| node.span.is_override()) {
            return;
        }
        let text = deadline.map_or(Some(default.as_str()), Node::text);
        let Some(limit) = text.and_then(|text| parse_duration(text).ok()) else { return };
        for step in self.root.items_of("step") {
            let Some(node) = step.get("timeout") else { continue };
            if node.text().and_then(|text| parse_duration(text).ok()).is_some_and(|timeout| timeout > limit) {
                let whole = text.unwrap_or_default();
                self.push(
                    Fault::new(node.span, format!("longer than the whole bake may take (`machine.timeout`, {whole})"))
                        .help(Some("raise `timeout` in `[machine]`, or lower this one")),
                );
            }
        }
    }

    fn volumes(&mut self) {
        let volumes = self.root.items_of("volume");
        self.unique(volumes, "name", "volume name");
        self.unique(volumes, "mount", "mount point");
        for volume in volumes {
            let xfs = volume.text_of("filesystem") == Some("xfs");
            if let Some(name) = volume.get("name")
                && xfs
                && name.text().is_some_and(|name| name.len() > MOST_XFS_NAME)
            {
                self.push(
                    Fault::new(name.span, "name too long for an XFS label `bake-<name>` of 12 characters")
                        .expected(format!("at most {MOST_XFS_NAME} characters, or `filesystem = \"ext4\"`")),
                );
            }
            self.volume_size(volume, xfs);
        }
    }

    fn volume_size(&mut self, volume: &Node, xfs: bool) {
        let hdd = matches!(volume.text_of("type"), Some("st1" | "sc1"));
        let span = blamed(&["size", "type", "filesystem"].map(|key| volume.get(key)), volume.span);
        let default = default_volume_size();
        let text = volume.get("size").map_or(Some(default.as_str()), Node::text);
        let Some(bytes) = text.and_then(|text| parse_size(text).ok()) else { return };
        if hdd && bytes < LEAST_HDD {
            self.push(Fault::new(span, "too small for an HDD volume (st1, sc1)").expected("at least `125GiB`"));
        } else if xfs && bytes < LEAST_XFS {
            self.push(Fault::new(span, "too small for XFS").expected("at least `300MiB`"));
        } else if bytes < LEAST_EXT4 {
            self.push(Fault::new(span, "too small for a file system").expected("at least `16MiB`"));
        }
    }

    /// With data volumes and a daemon, the cache must be on one of them: else it fills the root disk unseen.
    fn cache_root(&mut self) {
        let volumes = self.root.items_of("volume");
        let Some(daemon) = self.root.get("buildkitd") else { return };
        let mounts: Vec<_> = volumes.iter().filter_map(|volume| volume.text_of("mount")).collect();
        if mounts.is_empty() || mounts.len() != volumes.len() {
            return;
        }
        let default = Buildkitd::default().root;
        let Some(root) = daemon.get("root").map_or(Some(default.as_str()), Node::text) else { return };
        let inside =
            |mount: &&str| root.strip_prefix(*mount).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        if !mounts.iter().any(inside) {
            let set = volumes.iter().filter_map(|volume| volume.get("mount")).find(|mount| mount.span.is_override());
            let span = blamed(&[daemon.get("root"), set], daemon.span);
            self.push(
                Fault::new(
                    span,
                    format!("the cache (`buildkitd.root`, {}) is on no volume of the recipe", shown(root)),
                )
                .expected(format!("a folder at or below {}", listed(&mounts))),
            );
        }
    }

    fn garbage_collection(&mut self) {
        let Some(gc) = self.root.at(&["buildkitd", "gc"]) else { return };
        let defaults = Gc::default();
        let percent = |key: &str, default: u8| match gc.get(key).map(|node| &node.value) {
            None => Some(i64::from(default)),
            Some(Value::Integer(number)) if (0..=100).contains(number) => Some(*number),
            Some(_) => None,
        };
        let reserved = percent("reserved_percent", defaults.reserved_percent);
        let most = percent("max_used_percent", defaults.max_used_percent);
        let free = percent("min_free_percent", defaults.min_free_percent);
        let span = |keys: [&str; 2]| blamed(&keys.map(|key| gc.get(key)), gc.span);
        if let (Some(reserved), Some(most)) = (reserved, most)
            && reserved > most
        {
            let at = span(["reserved_percent", "max_used_percent"]);
            self.push(Fault::new(
                at,
                format!("`reserved_percent` ({reserved}) is more than `max_used_percent` ({most})"),
            ));
        }
        if let (Some(most), Some(free)) = (most, free)
            && most + free > 100
        {
            let at = span(["max_used_percent", "min_free_percent"]);
            let sum = most + free;
            self.push(
                Fault::new(at, format!("`max_used_percent` ({most}) and `min_free_percent` ({free}) make {sum} %"))
                    .expected("at most 100 together"),
            );
        }
    }

    fn steps(&mut self) {
        let steps = self.root.items_of("step");
        self.unique(steps, "name", "step name");
        self.unique(steps, "unit", "unit");
        for step in steps {
            match step.text_of("kind") {
                Some("packages") => self.packages(step),
                Some("file" | "unit") => self.content(step),
                _ => {}
            }
        }
    }

    fn packages(&mut self, step: &Node) {
        let lists = ["apt", "dnf"].map(|key| step.get(key));
        if lists.iter().flatten().all(|list| matches!(&list.value, Value::Array(items) if items.is_empty())) {
            let fault = Fault::missing(step.span, "a step that installs no packages");
            self.push(fault.expected("names in `apt`, in `dnf`, or in both"));
        }
    }

    fn content(&mut self, step: &Node) {
        match (step.entry("content"), step.entry("asset")) {
            (Some(content), Some(asset)) => {
                let second = if content.key_span > asset.key_span { content } else { asset };
                self.push(Fault::new(second.key_span, "both `content` and `asset`").expected("exactly one of them"));
            }
            (None, None) => {
                self.push(Fault::missing(step.span, "neither `content` nor `asset`").expected("exactly one of them"));
            }
            _ => {}
        }
    }

    fn checks(&mut self) {
        let checks = self.root.items_of("check");
        self.unique(checks, "name", "check name");
        for check in checks {
            let Some(peer) = check.get("peer") else { continue };
            if peer.text().is_some() && peer.text() == self.root.text_of("name") {
                self.push(
                    Fault::new(
                        blamed(&[Some(peer), self.root.get("name")], peer.span),
                        "a check whose peer is the recipe itself",
                    )
                    .expected("the name of another recipe"),
                );
            }
            if let Some(when) = check.get("when").filter(|when| when.text() == Some("bake")) {
                self.push(
                    Fault::new(
                        when.span,
                        "a check with a peer cannot run at the end of the bake: there is no peer yet",
                    )
                    .expected("`boot`, or no `when`"),
                );
            }
        }
    }

    fn tags(&mut self) {
        let Some(tags) = self.root.get("tags") else { return };
        if tags.entries().len() > MOST_TAGS {
            let count = tags.entries().len();
            self.push(
                Fault::new(tags.span, format!("{count} tags"))
                    .expected(format!("at most {MOST_TAGS}: EC2 takes 50, and amibake has its own")),
            );
        }
    }

    /// Each of `nodes` that has the string `key` must have another.
    fn unique(&mut self, nodes: &[Node], key: &str, what: &str) {
        let mut seen: HashMap<&str, Span> = HashMap::new();
        for node in nodes {
            let Some(value) = node.get(key) else { continue };
            let Some(text) = value.text() else { continue };
            if let Some(first) = seen.get(text) {
                let (taken, other) = if first.is_override() { (*first, value.span) } else { (value.span, *first) };
                let label = match other.is_override() {
                    false => format!("it is in line {} already", self.sources.line(other.start)),
                    true => String::new(),
                };
                self.faults.push(Fault::new(taken, format!("{what} `{}` is taken", shown(text))).label(label));
            } else {
                seen.insert(text, value.span);
            }
        }
    }
}

/// Which of the values that disagree is told: one that `--set` gave, else the first there is.
fn blamed(values: &[Option<&Node>], otherwise: Span) -> Span {
    let spans = || values.iter().flatten().map(|node| node.span);
    spans().find(|span| span.is_override()).or_else(|| spans().next()).unwrap_or(otherwise)
}

fn size_at<'n>(node: &'n Node, key: &str) -> Option<(&'n Node, u64)> {
    let value = node.get(key)?;
    Some((value, parse_size(value.text()?).ok()?))
}
