//! A Sigstore of our own: a certificate authority, a certificate log, a time-stamp authority and two transparency logs
//! with keys made on the spot, and bundles that they sign. For tests alone: every fault a bundle can have can be made
//! here, and nothing that it signs is trusted by anything but the trusted root that it prints.

mod der;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData as _, SanType, SerialNumber,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use der::{number, octets, oid, sequence, set, tlv};

/// The arc of Fulcio's extensions (its `docs/oid-info.md`).
const FULCIO: [u64; 8] = [1, 3, 6, 1, 4, 1, 57_264, 1];
const ISSUER: &str = "https://token.actions.githubusercontent.com";
const DSSE: &str = "application/vnd.in-toto+json";

/// Which log an entry is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Log {
    /// Rekor v1: `dsse` 0.0.1 with a promise.
    V1,
    /// Rekor v2: `hashedrekord` 0.0.2 with a proof alone.
    V2,
}

/// What is claimed and signed. Every field may be made wrong.
#[derive(Debug, Clone)]
pub struct Claim {
    pub identity: String,
    pub issuer: String,
    pub build_signer: String,
    pub build_signer_digest: String,
    pub runner: String,
    pub repository: String,
    pub source_ref: String,
    /// File name and SHA-256 in hexadecimal digits.
    pub subjects: Vec<(String, String)>,
    pub statement_type: String,
    pub predicate_type: String,
    pub payload_type: String,
    pub log: Log,
    pub signed_at: Timestamp,
    /// How long after `signed_at` the time stamp is; the certificate lasts ten minutes.
    pub stamped_after: SignedDuration,
}

impl Claim {
    /// As BuildKit's releases claim it for `version` (`v0.32.2`).
    #[must_use]
    pub fn release(version: &str, subjects: &[(&str, &str)]) -> Self {
        let identity = "https://github.com/docker/github-builder/.github/workflows/bake.yml@refs/tags/v1.4.0";
        Self {
            identity: identity.to_owned(),
            issuer: ISSUER.to_owned(),
            build_signer: identity.to_owned(),
            build_signer_digest: "0e0d465c6dca36f73e0798e31e691990f99e6ec4".to_owned(),
            runner: "github-hosted".to_owned(),
            repository: "https://github.com/moby/buildkit".to_owned(),
            source_ref: format!("refs/tags/{version}"),
            subjects: subjects.iter().map(|(name, digest)| ((*name).to_owned(), (*digest).to_owned())).collect(),
            statement_type: "https://in-toto.io/Statement/v1".to_owned(),
            predicate_type: "https://slsa.dev/provenance/v1".to_owned(),
            payload_type: DSSE.to_owned(),
            log: Log::V1,
            signed_at: "2026-03-02T10:15:00Z".parse().expect("a time"),
            stamped_after: SignedDuration::ZERO,
        }
    }

    fn statement(&self) -> Value {
        let subjects: Vec<Value> = self
            .subjects
            .iter()
            .map(|(name, digest)| json!({ "name": name, "digest": { "sha256": digest } }))
            .collect();
        json!({
            "_type": self.statement_type, "subject": subjects, "predicateType": self.predicate_type, "predicate": {},
        })
    }
}

/// A key of one of the parties.
struct Key {
    pair: KeyPair,
}

impl Key {
    fn new() -> Self {
        Self { pair: KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key") }
    }

    fn spki(&self) -> Vec<u8> {
        self.pair.subject_public_key_info()
    }

    /// What logs call a key: the SHA-256 of its public half.
    fn id(&self) -> [u8; 32] {
        Sha256::digest(self.spki()).into()
    }

    fn sign(&self, data: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pair.serialize_der(), &random);
        key.expect("a key").sign(&random, data).expect("a signature").as_ref().to_vec()
    }

    /// As a trusted root has a log.
    fn log(&self, url: &str) -> Value {
        json!({
            "baseUrl": url, "hashAlgorithm": "SHA2_256", "logId": { "keyId": STANDARD.encode(self.id()) },
            "publicKey": {
                "rawBytes": STANDARD.encode(self.spki()), "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                "validFor": { "start": "2021-01-01T00:00:00Z" },
            },
        })
    }
}

/// An authority and its certificate.
struct Authority {
    key: Key,
    params: CertificateParams,
    certificate: Vec<u8>,
}

/// All parties of one Sigstore.
pub struct Notary {
    fulcio: Authority,
    tsa: Authority,
    stamper: Key,
    stamper_certificate: Vec<u8>,
    certificate_log: Key,
    rekor: Key,
    rekor_v2: Key,
}

impl Default for Notary {
    fn default() -> Self {
        Self::new()
    }
}

impl Notary {
    /// With new keys.
    #[must_use]
    pub fn new() -> Self {
        let fulcio = Authority::new("notary-fulcio");
        let tsa = Authority::new("notary-tsa");
        let stamper = Key::new();
        let stamper_certificate = stamper_certificate(&stamper, &tsa);
        let [certificate_log, rekor, rekor_v2] = [Key::new(), Key::new(), Key::new()];
        Self { fulcio, tsa, stamper, stamper_certificate, certificate_log, rekor, rekor_v2 }
    }

    /// The trusted root, as `--trusted-root` takes it.
    #[must_use]
    pub fn trusted_root(&self) -> String {
        let chain = |certificates: &[&[u8]]| {
            let entries: Vec<Value> =
                certificates.iter().map(|der| json!({ "rawBytes": STANDARD.encode(der) })).collect();
            json!({ "certificates": entries })
        };
        let since = json!({ "start": "2021-01-01T00:00:00Z" });
        let root = json!({
            "mediaType": "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
            "tlogs": [self.rekor.log("https://rekor.test"), self.rekor_v2.log("https://log2025.rekor.test")],
            "certificateAuthorities": [{
                "subject": { "organization": "notary", "commonName": "notary-fulcio" }, "uri": "https://fulcio.test",
                "certChain": chain(&[&self.fulcio.certificate]), "validFor": since,
            }],
            "ctlogs": [self.certificate_log.log("https://ctfe.test")],
            "timestampAuthorities": [{
                "subject": { "organization": "notary", "commonName": "notary-tsa" }, "uri": "https://tsa.test",
                "certChain": chain(&[&self.stamper_certificate, &self.tsa.certificate]), "validFor": since,
            }],
        });
        format!("{root:#}\n")
    }

    /// The bundle of what `claim` says.
    #[must_use]
    pub fn sign(&self, claim: &Claim) -> Value {
        let payload = claim.statement().to_string();
        let signer = Key::new();
        let certificate = self.certificate(claim, &signer);
        let pae = pae(&claim.payload_type, payload.as_bytes());
        let signature = signer.sign(&pae);
        let entry = match claim.log {
            Log::V1 => self.entry_v1(claim, payload.as_bytes(), &certificate, &signature),
            Log::V2 => self.entry_v2(&pae, &certificate, &signature),
        };
        let stamp = self.stamp(&signature, claim.signed_at + claim.stamped_after);
        json!({
            "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
            "verificationMaterial": {
                "certificate": { "rawBytes": STANDARD.encode(&certificate) },
                "tlogEntries": [entry],
                "timestampVerificationData": { "rfc3161Timestamps": [{ "signedTimestamp": STANDARD.encode(stamp) }] },
            },
            "dsseEnvelope": {
                "payload": STANDARD.encode(&payload), "payloadType": claim.payload_type,
                "signatures": [{ "sig": STANDARD.encode(&signature) }],
            },
        })
    }

    /// The signer's certificate with its claims and the certificate log's promise.
    fn certificate(&self, claim: &Claim, signer: &Key) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(vec![0x42; 16]));
        (params.not_before, params.not_after) = (at(claim.signed_at, 0), at(claim.signed_at, 600));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        params.subject_alt_names = vec![SanType::URI(claim.identity.as_str().try_into().expect("ASCII"))];
        let claims = [
            (8, &claim.issuer),
            (9, &claim.build_signer),
            (10, &claim.build_signer_digest),
            (11, &claim.runner),
            (12, &claim.repository),
            (14, &claim.source_ref),
        ];
        for (number, value) in claims {
            let mut arc = FULCIO.to_vec();
            arc.push(number);
            params.custom_extensions.push(CustomExtension::from_oid_content(&arc, tlv(0x0c, &[value.as_bytes()])));
        }
        let issuer = Issuer::from_params(&self.fulcio.params, &self.fulcio.key.pair);
        let precertificate = params.signed_by(&signer.pair, &issuer).expect("a certificate");
        let promise = self.promise(to_be_signed(precertificate.der()), claim.signed_at);
        // RFC 6962, 3.3: the list is an octet string in the extension's own.
        let list = [&(promise.len() as u16 + 2).to_be_bytes()[..], &(promise.len() as u16).to_be_bytes(), &promise];
        let arc = [1, 3, 6, 1, 4, 1, 11_129, 2, 4, 2];
        params.custom_extensions.push(CustomExtension::from_oid_content(&arc, octets(&list.concat())));
        params.signed_by(&signer.pair, &issuer).expect("a certificate").der().to_vec()
    }

    /// A signed certificate timestamp (RFC 6962, 3.2) over a certificate without one.
    fn promise(&self, to_be_signed: &[u8], time: Timestamp) -> Vec<u8> {
        let millis = (time.as_millisecond() as u64).to_be_bytes();
        let issuer_key: [u8; 32] = self.fulcio.key.id();
        let signed = [
            &[0, 0][..],
            &millis,
            &[0, 1],
            &issuer_key,
            &(to_be_signed.len() as u32).to_be_bytes()[1..],
            to_be_signed,
            &[0, 0],
        ];
        let signature = self.certificate_log.sign(&signed.concat());
        let parts = [
            &[0][..],
            &self.certificate_log.id(),
            &millis,
            // No extensions; SHA-256 (4) with ECDSA (3).
            &[0, 0, 4, 3],
            &(signature.len() as u16).to_be_bytes(),
            &signature,
        ];
        parts.concat()
    }

    fn entry_v1(&self, claim: &Claim, payload: &[u8], certificate: &[u8], signature: &[u8]) -> Value {
        let pem = format!(
            "-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n",
            STANDARD
                .encode(certificate)
                .as_bytes()
                .chunks(64)
                .map(String::from_utf8_lossy)
                .collect::<Vec<_>>()
                .join("\n")
        );
        let body = json!({
            "apiVersion": "0.0.1", "kind": "dsse",
            "spec": {
                "envelopeHash": { "algorithm": "sha256", "value": hex(&Sha256::digest(payload)) },
                "payloadHash": { "algorithm": "sha256", "value": hex(&Sha256::digest(payload)) },
                "signatures": [{ "signature": STANDARD.encode(signature), "verifier": STANDARD.encode(pem) }],
            },
        })
        .to_string();
        let index = 658_949_562;
        let time = claim.signed_at.as_second();
        // RFC 8785: keys in their order.
        let promised = format!(
            r#"{{"body":"{}","integratedTime":{time},"logID":"{}","logIndex":{index}}}"#,
            STANDARD.encode(&body),
            hex(&self.rekor.id())
        );
        json!({
            "logIndex": index.to_string(), "logId": { "keyId": STANDARD.encode(self.rekor.id()) },
            "kindVersion": { "kind": "dsse", "version": "0.0.1" }, "integratedTime": time.to_string(),
            "inclusionPromise": { "signedEntryTimestamp": STANDARD.encode(self.rekor.sign(promised.as_bytes())) },
            "inclusionProof": proof(&self.rekor, body.as_bytes()),
            "canonicalizedBody": STANDARD.encode(&body),
        })
    }

    fn entry_v2(&self, pae: &[u8], certificate: &[u8], signature: &[u8]) -> Value {
        let body = json!({
            "apiVersion": "0.0.2", "kind": "hashedrekord",
            "spec": { "hashedRekordV002": {
                "data": { "algorithm": "SHA2_256", "digest": STANDARD.encode(Sha256::digest(pae)) },
                "signature": {
                    "content": STANDARD.encode(signature),
                    "verifier": {
                        "keyDetails": "PKIX_ECDSA_P256_SHA_256",
                        "x509Certificate": { "rawBytes": STANDARD.encode(certificate) },
                    },
                },
            } },
        })
        .to_string();
        json!({
            "logIndex": "1", "logId": { "keyId": STANDARD.encode(self.rekor_v2.id()) },
            "kindVersion": { "kind": "hashedrekord", "version": "0.0.2" },
            "inclusionProof": proof(&self.rekor_v2, body.as_bytes()),
            "canonicalizedBody": STANDARD.encode(&body),
        })
    }

    /// A time stamp (RFC 3161) of `signature`: a response with a token, as Sigstore's authority sends it.
    fn stamp(&self, signature: &[u8], time: Timestamp) -> Vec<u8> {
        let sha256 = sequence(&[&oid(&[2, 16, 840, 1, 101, 3, 4, 2, 1])]);
        let tst_info_type = oid(&[1, 2, 840, 113_549, 1, 9, 16, 1, 4]);
        let info = sequence(&[
            &number(1),
            &oid(&[1, 3, 6, 1, 4, 1, 57_264, 2]),
            &sequence(&[&sha256, &octets(&Sha256::digest(signature))]),
            &number(7),
            &tlv(0x18, &[time.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes()]),
        ]);
        let content_type = sequence(&[&oid(&[1, 2, 840, 113_549, 1, 9, 3]), &set(&[&tst_info_type])]);
        let digest = sequence(&[&oid(&[1, 2, 840, 113_549, 1, 9, 4]), &set(&[&octets(&Sha256::digest(&info))])]);
        let attributes = set(&[&content_type, &digest]);
        let signature = self.stamper.sign(&attributes);
        // In the token the attributes are [0] IMPLICIT; signed is the set (RFC 5652, 5.4).
        let mut implicit = attributes.clone();
        implicit[0] = 0xa0;
        let signer = sequence(&[
            &number(1),
            &sequence(&[&name("notary-tsa"), &number(5)]),
            &sha256,
            &implicit,
            &sequence(&[&oid(&[1, 2, 840, 10_045, 4, 3, 2])]),
            &octets(&signature),
        ]);
        let signed_data = sequence(&[
            &number(3),
            &set(&[&sha256]),
            &sequence(&[&tst_info_type, &tlv(0xa0, &[&octets(&info)])]),
            &tlv(0xa0, &[&self.stamper_certificate]),
            &set(&[&signer]),
        ]);
        let token = sequence(&[&oid(&[1, 2, 840, 113_549, 1, 7, 2]), &tlv(0xa0, &[&signed_data])]);
        sequence(&[&sequence(&[&number(0)]), &token])
    }
}

impl Authority {
    fn new(called: &str) -> Self {
        let key = Key::new();
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished(called);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2021, 1, 1), rcgen::date_time_ymd(2041, 1, 1));
        let certificate = params.self_signed(&key.pair).expect("a certificate").der().to_vec();
        Self { key, params, certificate }
    }
}

fn distinguished(called: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(DnType::CommonName, called);
    name
}

/// The same name as `distinguished` makes, in DER: rcgen writes it as a UTF-8 string.
fn name(called: &str) -> Vec<u8> {
    sequence(&[&set(&[&sequence(&[&oid(&[2, 5, 4, 3]), &tlv(0x0c, &[called.as_bytes()])])])])
}

fn stamper_certificate(stamper: &Key, tsa: &Authority) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished("notary-stamper");
    params.serial_number = Some(SerialNumber::from(vec![5]));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::TimeStamping];
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2021, 1, 1), rcgen::date_time_ymd(2041, 1, 1));
    let issuer = Issuer::from_params(&tsa.params, &tsa.key.pair);
    params.signed_by(&stamper.pair, &issuer).expect("a certificate").der().to_vec()
}

/// `time` as rcgen takes it, `seconds` later.
fn at<T>(time: Timestamp, seconds: u64) -> T
where
    T: std::ops::Add<std::time::Duration, Output = T> + From<std::time::SystemTime>,
{
    let epoch = T::from(std::time::SystemTime::UNIX_EPOCH);
    epoch + std::time::Duration::from_secs(time.as_second() as u64 + seconds)
}

/// The part of a certificate that is signed: the first member of the outer sequence.
fn to_be_signed(certificate: &[u8]) -> &[u8] {
    let inner = &certificate[header(certificate).0..];
    let (head, length) = header(inner);
    &inner[..head + length]
}

/// Length of the header of a DER value, and of what is inside.
fn header(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ ..=0x7f => (2, usize::from(short)),
        long => {
            let count = usize::from(long & 0x7f);
            (2 + count, der[2..2 + count].iter().fold(0, |length, byte| length << 8 | usize::from(*byte)))
        }
    }
}

/// What a DSSE signature is over (its protocol, "PAE").
fn pae(kind: &str, payload: &[u8]) -> Vec<u8> {
    [format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).as_bytes(), payload].concat()
}

/// Our entry is the second of two in its log.
fn proof(log: &Key, body: &[u8]) -> Value {
    let leaf = Sha256::digest([&[0], body].concat());
    let other = Sha256::digest([&[0][..], b"another entry"].concat());
    let root = Sha256::digest([&[1], &other[..], &leaf[..]].concat());
    let note = format!("rekor.test - 2605736670972794746\n2\n{}\n", STANDARD.encode(root));
    let signature = [&log.id()[..4], &log.sign(note.as_bytes())].concat();
    json!({
        "logIndex": "1", "treeSize": "2", "rootHash": STANDARD.encode(root), "hashes": [STANDARD.encode(other)],
        "checkpoint": { "envelope": format!("{note}\n\u{2014} rekor.test {}\n", STANDARD.encode(signature)) },
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
