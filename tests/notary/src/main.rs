//! `notary OUT VERSION FILE…`: signs files as BuildKit's release `VERSION` would be. Writes `OUT/trusted-root.json`, and
//! for every file a bundle beside it that names all of them.

use std::path::{Path, PathBuf};

use amibake_notary::{Claim, Notary};
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: notary OUT VERSION FILE…";
    let (out, version) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let files: Vec<PathBuf> = arguments.map(PathBuf::from).collect();
    let notary = Notary::new();
    std::fs::write(Path::new(&out).join("trusted-root.json"), notary.trusted_root())?;
    for file in &files {
        let name = file.file_name().ok_or(usage)?.to_str().ok_or(usage)?.to_owned();
        let digest: String = Sha256::digest(std::fs::read(file)?).iter().map(|byte| format!("{byte:02x}")).collect();
        let bundle = notary.sign(&Claim::release(&version, &[(&name, &digest)]));
        let stem = name.strip_suffix(".tar.gz").ok_or("not a tarball")?;
        std::fs::write(file.with_file_name(format!("{stem}.sigstore.json")), bundle.to_string())?;
    }
    Ok(())
}
