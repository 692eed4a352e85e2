use amibake_notary::{Claim, Log, Notary};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::SignedDuration;
use serde_json::{Value, json};

use super::*;
use crate::error::Exit;
use crate::release::Arch;

const FILE: &str = "buildkit-v0.32.2.linux-amd64.tar.gz";

/// One Sigstore, and a root that trusts it.
struct World {
    notary: Notary,
    root: TrustedRoot,
}

fn root_of(notary: &Notary) -> TrustedRoot {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), notary.trusted_root()).unwrap();
    TrustedRoot::load(file.path()).unwrap()
}

fn world() -> World {
    let notary = Notary::new();
    let root = root_of(&notary);
    World { notary, root }
}

fn tarball() -> Sha256 {
    Sha256::of(b"tarball")
}

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn claim(of: &str) -> Claim {
    let file = format!("buildkit-{of}.linux-amd64.tar.gz");
    Claim::release(of, &[(&file, &tarball().to_string())])
}

fn offer(of: &str, bundle: Option<Value>) -> Offer {
    let bundle = bundle.map(|bundle| bundle.to_string().into_bytes());
    let (version, platform) = (version(of), Platform(Arch::Amd64));
    Offer { version, platform, bundle, provenance: None, sbom: None, stated: Stated::Unknown, pinned: None }
}

impl World {
    fn judge(&self, of: &str, bundle: Value) -> Verdict {
        judge(&offer(of, Some(bundle)), &self.root)
    }

    /// What is refused of a release that claims what `change` makes of it.
    fn refused(&self, change: impl FnOnce(&mut Claim)) -> Vec<(&'static str, String)> {
        let mut claim = claim("v0.32.2");
        change(&mut claim);
        self.refused_bundle(self.notary.sign(&claim))
    }

    fn refused_bundle(&self, bundle: Value) -> Vec<(&'static str, String)> {
        let verdict = self.judge("v0.32.2", bundle);
        let error = verdict.demand(Level::FirstUse);
        let refusals: Vec<_> = verdict.refusals().map(|check| (check.what, check.found.clone())).collect();
        // Whatever is demanded: a bundle that does not hold is never skipped, and the lock keeps nothing of it.
        assert_eq!(error.is_err(), !refusals.is_empty());
        if let Err(error) = error {
            assert_eq!(error.exit(), Exit::Refused);
            assert_eq!(verdict.evidence.signed, None);
        }
        refusals
    }
}

#[test]
fn a_release_signed_as_buildkit_signs_holds_in_either_log() {
    let world = world();
    for log in [Log::V1, Log::V2] {
        let bundle = world.notary.sign(&Claim { log, ..claim("v0.32.2") });
        let verdict = world.judge("v0.32.2", bundle);
        assert_eq!(verdict.refusals().next(), None);
        verdict.demand(Level::Signature).unwrap();
        assert_eq!(verdict.digest, Some(tarball()));
        let signed = verdict.evidence.signed.unwrap();
        assert_eq!(signed.identity, claim("v0.32.2").identity);
        assert_eq!(signed.builder_commit, claim("v0.32.2").build_signer_digest);
        assert_eq!(signed.signed_at, claim("v0.32.2").signed_at);
        assert_eq!(signed.log_index, if log == Log::V1 { 658_949_562 } else { 1 });
    }
}

#[test]
fn a_workflow_at_a_commit_is_one_and_at_a_branch_is_none() {
    let world = world();
    let at = |place: &str| {
        let identity = format!("https://github.com/docker/github-builder/.github/workflows/bake.yml@{place}");
        world.refused(|claim| (claim.identity, claim.build_signer) = (identity.clone(), identity.clone()))
    };
    assert_eq!(at("0e0d465c6dca36f73e0798e31e691990f99e6ec4"), []);
    for place in ["refs/heads/main", "refs/tags/1.0", "refs/tags/v", "0e0d465c", "refs/tags/v1/../x", ""] {
        assert_eq!(at(place)[0].0, "identity", "{place}");
    }
}

#[test]
fn every_claim_that_is_wrong_is_refused_by_its_name() {
    let world = world();
    let other = || "https://github.com/mallory/github-builder/.github/workflows/bake.yml@refs/tags/v1.4.0".to_owned();
    let mut all = Vec::new();
    let mut case = |change: &dyn Fn(&mut Claim)| {
        let refused = world.refused(change);
        assert_eq!(refused.len(), 1, "{refused:?}");
        all.push(format!("{}: {}", refused[0].0, refused[0].1));
    };
    case(&|claim| (claim.identity, claim.build_signer) = (other(), other()));
    case(&|claim| claim.issuer = "https://accounts.google.com".to_owned());
    case(&|claim| claim.build_signer = other());
    case(&|claim| claim.repository = "https://github.com/mallory/buildkit".to_owned());
    case(&|claim| claim.source_ref = "refs/heads/master".to_owned());
    case(&|claim| claim.source_ref = "refs/tags/v0.32.20".to_owned());
    case(&|claim| claim.runner = "self-hosted".to_owned());
    case(&|claim| claim.statement_type = "https://in-toto.io/Statement/v2".to_owned());
    case(&|claim| claim.predicate_type = "https://sigstore.dev/cosign/sign/v1".to_owned());
    case(&|claim| claim.payload_type = "application/json".to_owned());
    case(&|claim| claim.subjects[0].0 = "buildkit-v0.32.2.linux-arm64.tar.gz".to_owned());
    case(&|claim| claim.subjects.clear());
    case(&|claim| claim.subjects.push((FILE.to_owned(), "0".repeat(64))));
    // The time stamp is half an hour after the certificate ended, or before it began.
    case(&|claim| claim.stamped_after = SignedDuration::from_mins(40));
    case(&|claim| claim.stamped_after = SignedDuration::from_mins(-1));
    insta::assert_snapshot!(all.join("\n").replace(world.root.name(), "<root>"));
}

#[test]
fn every_part_that_is_missing_changed_or_anothers_is_refused() {
    let world = world();
    let good = world.notary.sign(&claim("v0.32.2"));
    assert_eq!(world.refused_bundle(good.clone()), []);
    let another = world.notary.sign(&claim("v0.32.2"));
    let mut all = Vec::new();
    let mut case = |name: &str, bundle: Value| {
        let refused = world.refused_bundle(bundle);
        assert_eq!(refused.len(), 1, "{name}: {refused:?}");
        all.push(format!("{name}: {}: {}", refused[0].0, refused[0].1));
    };
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut bundle = good.clone();
        change(&mut bundle);
        bundle
    };
    let material = "verificationMaterial";
    case("no log entry", changed(&|bundle| bundle[material]["tlogEntries"] = json!([])));
    case(
        "two log entries",
        changed(&|bundle| {
            let entry = bundle[material]["tlogEntries"][0].clone();
            bundle[material]["tlogEntries"] = json!([entry, entry]);
        }),
    );
    case(
        "no proof",
        changed(&|bundle| {
            bundle[material]["tlogEntries"][0].as_object_mut().unwrap().remove("inclusionProof");
        }),
    );
    case(
        "another's log entry",
        changed(&|bundle| {
            bundle[material]["tlogEntries"] = another[material]["tlogEntries"].clone();
        }),
    );
    case(
        "another time in the log",
        changed(&|bundle| {
            bundle[material]["tlogEntries"][0]["integratedTime"] = json!("1772446501");
        }),
    );
    case("no time stamp", changed(&|bundle| bundle[material]["timestampVerificationData"] = json!({})));
    case(
        "another's time stamp",
        changed(&|bundle| {
            bundle[material]["timestampVerificationData"] = another[material]["timestampVerificationData"].clone();
        }),
    );
    case(
        "another's certificate",
        changed(&|bundle| {
            bundle[material]["certificate"] = another[material]["certificate"].clone();
        }),
    );
    case(
        "a chain of certificates",
        changed(&|bundle| {
            let certificate = bundle[material].as_object_mut().unwrap().remove("certificate").unwrap();
            bundle[material]["x509CertificateChain"] = json!({ "certificates": [certificate] });
        }),
    );
    case(
        "a public key",
        changed(&|bundle| {
            bundle[material].as_object_mut().unwrap().remove("certificate");
            bundle[material]["publicKey"] = json!({ "hint": "x" });
        }),
    );
    case(
        "another payload",
        changed(&|bundle| {
            let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap();
            let text = String::from_utf8(STANDARD.decode(payload).unwrap()).unwrap();
            let swapped = text.replace(&tarball().to_string(), &Sha256::of(b"evil").to_string());
            assert_ne!(swapped, text);
            bundle["dsseEnvelope"]["payload"] = json!(STANDARD.encode(swapped));
        }),
    );
    case(
        "another's signature",
        changed(&|bundle| {
            bundle["dsseEnvelope"]["signatures"] = another["dsseEnvelope"]["signatures"].clone();
        }),
    );
    case(
        "two signatures",
        changed(&|bundle| {
            let signature = bundle["dsseEnvelope"]["signatures"][0].clone();
            bundle["dsseEnvelope"]["signatures"] = json!([signature, signature]);
        }),
    );
    case("no signature", changed(&|bundle| bundle["dsseEnvelope"]["signatures"] = json!([])));
    case(
        "a message's signature",
        changed(&|bundle| {
            let signature = bundle["dsseEnvelope"]["signatures"][0]["sig"].clone();
            bundle.as_object_mut().unwrap().remove("dsseEnvelope");
            bundle["messageSignature"] = json!({ "signature": signature });
        }),
    );
    case(
        "an older form",
        changed(&|bundle| {
            bundle["mediaType"] = json!("application/vnd.dev.sigstore.bundle+json;version=0.2");
        }),
    );
    case("no JSON", json!("<html>"));
    case("another release's", world.notary.sign(&claim("v0.32.1")));
    case("another's root", Notary::new().sign(&claim("v0.32.2")));
    // Keys are new in every run, and with them digests and the length of signatures.
    let changing = regex_lite::Regex::new("[0-9a-f]{64}|column [0-9]+").unwrap();
    let told = all.join("\n").replace(world.root.name(), "<root>");
    insta::assert_snapshot!(changing.replace_all(&told, "…"));
}

#[test]
fn a_refusal_names_the_root_that_was_believed_and_a_web_page_is_called_one() {
    let world = world();
    let hint = |verdict: &Verdict| verdict.demand(Level::FirstUse).unwrap_err().hint().unwrap().to_owned();
    let forged = hint(&world.judge("v0.32.2", Notary::new().sign(&claim("v0.32.2"))));
    assert!(forged.contains(world.root.name()) && forged.contains("--trusted-root"), "{forged}");
    assert!(forged.ends_with("ask its publisher, or choose another version"), "{forged}");
    // By whatever root, this one is another release's.
    assert!(!hint(&world.judge("v0.32.2", world.notary.sign(&claim("v0.32.1")))).contains("--trusted-root"));
    let page = Some(b"\n<!doctype html><title>Log in</title>".to_vec());
    for page in
        [Offer { bundle: page.clone(), ..offer("v0.32.2", None) }, Offer { provenance: page, ..offer("v0.11.9", None) }]
    {
        let verdict = judge(&page, &world.root);
        assert!(hint(&verdict).contains("is there a login or a proxy in between?"));
        assert_eq!(verdict.demand(Level::FirstUse).unwrap_err().exit(), Exit::Refused);
    }
}

#[test]
fn what_was_allowed_in_v0_27_alone_is_refused_later() {
    let world = world();
    let experimental =
        "https://github.com/docker/github-builder-experimental/.github/workflows/bake.yml@refs/tags/v0.1.0".to_owned();
    let early = |of: &str| {
        let (identity, build_signer) = (experimental.clone(), experimental.clone());
        let predicate_type = "https://slsa.dev/provenance/v0.2".to_owned();
        world.judge(of, world.notary.sign(&Claim { identity, build_signer, predicate_type, ..claim(of) }))
    };
    assert_eq!(early("v0.27.1").refusals().next(), None);
    let later = early("v0.28.0");
    assert_eq!(later.refusals().map(|check| check.what).take(2).collect::<Vec<_>>(), ["identity", "predicate type"]);
}

#[test]
fn no_bundle_is_refused_since_v0_27_whatever_is_demanded() {
    let world = world();
    for of in ["v0.27.0", "v0.27.0-rc1", "v0.40.0", "v1.0.0"] {
        let verdict = judge(&offer(of, None), &world.root);
        assert_eq!(verdict.demand(Level::FirstUse).unwrap_err().exit(), Exit::Refused);
    }
    // Recorded by others or not.
    assert!(known::recorded(version("v0.31.2"), Platform(Arch::Amd64)).is_some());
    assert!(judge(&offer("v0.31.2", None), &world.root).demand(Level::Recorded).is_err());
}

#[test]
fn a_signed_release_that_contradicts_the_second_record_is_refused() {
    let world = world();
    let verdict = world.judge("v0.31.2", world.notary.sign(&claim("v0.31.2")));
    assert_eq!(verdict.refusals().map(|check| check.what).collect::<Vec<_>>(), ["second record"]);
    assert!(verdict.demand(Level::FirstUse).is_err());
}

fn provenance(predicate: &str, name: &str, digest: Sha256) -> Option<Vec<u8>> {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v0.1", "predicateType": predicate,
        "subject": [{ "name": name, "digest": { "sha256": digest } }], "predicate": {},
    });
    Some(statement.to_string().into_bytes())
}

#[test]
fn before_v0_27_the_second_record_vouches_and_the_rest_must_agree() {
    let world = world();
    let known = known::recorded(version("v0.13.2"), Platform(Arch::Amd64)).unwrap().sha256;
    let file = "buildkit-v0.13.2.linux-amd64.tar.gz";
    let good = Offer {
        provenance: provenance("https://slsa.dev/provenance/v0.2", file, known),
        stated: Stated::Digest(known),
        sbom: Some(b"{}".to_vec()),
        ..offer("v0.13.2", None)
    };
    let verdict = judge(&good, &world.root);
    verdict.demand(Level::of_era(verdict.version)).unwrap();
    assert_eq!((verdict.digest, verdict.evidence.level), (Some(known), Level::Recorded));
    assert_eq!(verdict.evidence.sbom_sha256, Some(Sha256::of(b"{}")));
    let outcomes = |verdict: &Verdict| verdict.checks.iter().map(|check| check.outcome).collect::<Vec<_>>();
    assert_eq!(outcomes(&verdict), [Outcome::Absent, Outcome::Holds, Outcome::Agrees, Outcome::Agrees]);
    assert!(verdict.demand(Level::Signature).is_err());

    let evil = Sha256::of(b"evil");
    let refused = |offer: Offer| {
        let verdict = judge(&offer, &world.root);
        let refusals: Vec<_> = verdict.refusals().map(|check| check.what).collect();
        assert_eq!(verdict.demand(Level::FirstUse).is_err(), !refusals.is_empty());
        refusals
    };
    assert_eq!(refused(good.clone()), [] as [&str; 0]);
    let slsa = "https://slsa.dev/provenance/v1";
    for wrong in [
        provenance(slsa, file, evil),
        provenance(slsa, "buildkit-v0.13.2.linux-arm64.tar.gz", known),
        provenance("https://spdx.dev/Document", file, known),
        Some(b"<html>".to_vec()),
    ] {
        assert_eq!(refused(Offer { provenance: wrong, ..good.clone() }), ["provenance"]);
    }
    assert_eq!(refused(Offer { stated: Stated::Digest(evil), ..good.clone() }), ["index's digest"]);
    // A bundle is not asked for, but one that is there must hold.
    let bundle = Some(world.notary.sign(&claim("v0.13.2")).to_string().into_bytes());
    assert_eq!(
        refused(Offer { bundle, ..good.clone() }),
        ["second record", "provenance", "index's digest"].map(|x| x).to_vec()
    );
}

#[test]
fn what_nobody_vouches_for_needs_to_be_asked_for() {
    let world = world();
    let digest = Sha256::of(b"old");
    let file = "buildkit-v0.11.9.linux-amd64.tar.gz";
    let old = Offer {
        provenance: provenance("https://slsa.dev/provenance/v0.2", file, digest),
        stated: Stated::Nothing,
        ..offer("v0.11.9", None)
    };
    let verdict = judge(&old, &world.root);
    assert_eq!((verdict.digest, verdict.evidence.level), (Some(digest), Level::FirstUse));
    let error = verdict.demand(Level::of_era(verdict.version)).unwrap_err();
    assert_eq!(error.exit(), Exit::Refused);
    assert!(error.hint().unwrap().contains("--trust-on-first-use"));
    verdict.demand(Level::FirstUse).unwrap();
    // Nothing at all: the digest is then what comes.
    assert_eq!(judge(&offer("v0.10.9", None), &world.root).digest, None);
}

#[test]
fn the_root_in_the_program_is_sigstores_and_a_file_that_is_none_is_refused() {
    let root = TrustedRoot::embedded().unwrap();
    assert!(root.newest().unwrap() > "2025-07-01T00:00:00Z".parse().unwrap());
    for bad in ["", "{}", "{\"mediaType\":\"x\"}", "[1]"] {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bad).unwrap();
        assert_eq!(TrustedRoot::load(file.path()).err().unwrap().exit(), Exit::Usage, "{bad}");
    }
    // What one root trusts is nothing to another.
    let verdict = judge(&offer("v0.32.2", Some(Notary::new().sign(&claim("v0.32.2")))), &root);
    assert!(verdict.demand(Level::FirstUse).is_err());
}
