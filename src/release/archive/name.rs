//! Names of members: which are accepted, and how they are printed.

use std::fmt::Write as _;

/// Longer names than a file system takes cannot be unpacked.
const COMPONENT: usize = 255;

/// Deeper trees exist only to exhaust something.
const DEPTH: usize = 32;

/// The name in its only form: components joined by single slashes, nothing in front or behind. Empty for the root.
///
/// # Errors
/// What is wrong with it.
pub(super) fn plain(raw: &[u8]) -> Result<String, &'static str> {
    let name = std::str::from_utf8(raw).map_err(|_| "its name is not UTF-8")?;
    if name.is_empty() {
        return Err("it has no name");
    }
    if name.chars().any(char::is_control) {
        return Err("its name holds control characters");
    }
    if name.starts_with('/') {
        return Err("its name is absolute");
    }
    let parts: Vec<&str> = name.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if parts.contains(&"..") {
        return Err("its name leaves the tree (`..`)");
    }
    if parts.iter().any(|part| part.len() > COMPONENT) || parts.len() > DEPTH {
        return Err("its name is too long");
    }
    Ok(parts.join("/"))
}

/// Whether a symbolic link at `link` (in its plain form) to `target` stays in the tree, wherever else links lead.
///
/// `..` may stand only in front: there it goes up from the link's own folder, which is a real folder, as no member lies
/// beneath a link. After a name that may be a link itself, `..` would lead to that link's parent, not back.
pub(super) fn stays(link: &str, target: &[u8]) -> Result<(), &'static str> {
    let target = std::str::from_utf8(target).map_err(|_| "its target is not UTF-8")?;
    if target.is_empty() {
        return Err("it links to nothing");
    }
    if target.chars().any(char::is_control) {
        return Err("its target holds control characters");
    }
    if target.starts_with('/') {
        return Err("it links to an absolute path");
    }
    let parts: Vec<&str> = target.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let up = parts.iter().take_while(|part| **part == "..").count();
    if up > link.matches('/').count() || parts[up..].contains(&"..") {
        return Err("it links out of the tree (`..`)");
    }
    Ok(())
}

/// A name as it may be printed on a terminal: escaped, and cut if it is very long.
pub(super) fn printable(raw: &[u8]) -> String {
    let mut text = String::new();
    for chunk in raw.utf8_chunks() {
        chunk.valid().chars().for_each(|c| match c {
            '\'' | '"' => text.push(c),
            c => text.extend(c.escape_debug()),
        });
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    if text.chars().count() > 100 {
        text = text.chars().take(100).chain(['…']).collect();
    }
    text
}
