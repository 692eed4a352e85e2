//! The version a stand-in program claims: appended to its file when the release is packed, since one build of the
//! programs serves every version that a test asks for.

use std::io::{Read, Seek, SeekFrom};

/// Precedes the version at the end of a packed program.
const TAG: &[u8] = b"\namibake stand-in version ";

/// The longest version text looked for.
const MOST: usize = 64;

/// `program` with `version` appended.
pub fn stamp(mut program: Vec<u8>, version: &str) -> Vec<u8> {
    program.extend_from_slice(TAG);
    program.extend_from_slice(version.as_bytes());
    program
}

/// The version appended to the running program; `v0.0.0` if none was.
pub fn own() -> String {
    read_own().unwrap_or_else(|| "v0.0.0".to_owned())
}

fn read_own() -> Option<String> {
    let mut file = std::fs::File::open("/proc/self/exe").ok()?;
    let length = file.seek(SeekFrom::End(0)).ok()?;
    file.seek(SeekFrom::Start(length.saturating_sub((TAG.len() + MOST) as u64))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    let at = tail.windows(TAG.len()).rposition(|window| window == TAG)?;
    String::from_utf8(tail.split_off(at + TAG.len())).ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_unstamped_program_claims_no_release() {
        assert_eq!(super::own(), "v0.0.0");
    }
}
